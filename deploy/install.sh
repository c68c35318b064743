#!/bin/sh
# Install Keepgate into a virtual environment of its own, with its kernels compiled.
#
#     deploy/install.sh PREFIX
#
# The source tree is only read. The container's image is made by this script, and so is the environment in
# which CI tries what the image does.
set -eu

prefix=$1
source=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

for distribution in protos kernels clients/python service; do
    mkdir -p "$copy/$distribution"
    cp -R "$source/$distribution/." "$copy/$distribution"
    chmod -R u+w "$copy/$distribution"
done

"${PYTHON:-python3}" -m venv "$prefix"
"$prefix/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check \
    --constraint "$source/constraints.txt" \
    "$copy/protos" "$copy/kernels" "$copy/clients/python" "$copy/service[redis]"
KEEPGATE_KERNEL_CACHE="$prefix/kernel-cache" "$prefix/bin/python" -m keepgate_kernels
