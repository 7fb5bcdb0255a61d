# make demo and make test each set up all they need, on any machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The GPU build of ONNX Runtime where an NVIDIA driver answers, else the CPU build: never both.
DEVICE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
STAMP := $(VENV)/.installed-$(DEVICE)

.PHONY: demo test check setup clean

demo: setup
	$(BIN)/vit-export demo --fp16 -o demo.onnx
	$(BIN)/vit-infer examples/ -m demo.onnx -k 3 --format table

test: setup
	$(BIN)/pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	rm -f $(VENV)/.installed-*
	test -x $(BIN)/python || $(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}; make PYTHON=python3.12"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(DEVICE),dev]'
	touch $@

clean:
	rm -rf $(VENV) demo.onnx .mypy_cache .ruff_cache .pytest_cache .hypothesis
