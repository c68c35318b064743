"""The rung that this process stands on."""

from __future__ import annotations

import os

from keepgate_kernels.cpu.rungs import VARIABLE, choose

RUNG = choose(os.environ.get(VARIABLE))
"""What the kernels of this process are compiled for. Importing it raises RungError if $KEEPGATE_CPU is wrong."""
