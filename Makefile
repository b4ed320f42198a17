# make demo, make test, make lint, make bench: each sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
GOLDEN := $(wildcard ../shared/golden)
export STREAMRNN_GOLDEN ?= $(if $(GOLDEN),$(abspath $(GOLDEN)))
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint bench clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[test,lint]"
	touch $@

# The CPU build of PyTorch is what tests and benchmarks compare with; they go on without it.
.venv/torch: .venv/ready
	-$(BIN)/python -m pip install --quiet torch==2.13.0 "onnxscript>=0.3"
	touch $@

demo: .venv/ready  ## speech detection on a real recording, and its export to ONNX
	$(BIN)/python examples/vad.py --out demo

test: .venv/ready .venv/torch  ## the whole suite
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: .venv/ready  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# OpenVINO and tract take part where there are wheels of them; NumPy on one thread, as all do.
.venv/peers: .venv/torch
	-$(BIN)/python -m pip install --quiet openvino tract
	touch $@

bench: .venv/peers  ## speed beside onnxruntime, torch and others, about ten minutes
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m streamrnn bench --out benchmarks/results/speed

clean:
	rm -rf .venv build dist demo *.egg-info
