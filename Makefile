# Each target makes its own environment in .venv and does all of its set-up. TORCH=torch==2.13.0 picks another torch.
PYTHON ?= python3
TORCH ?= torch>=2.11
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -type f) setup.py pyproject.toml

.PHONY: demo test lint bench clean

demo: $(VENV)/installed
	$(BIN)/nnkernels demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal
	$(BIN)/nnkernels check

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | grep -v polynomials.h \
	    | xargs $(BIN)/clang-format --dry-run --Werror

bench: $(VENV)/installed
	$(BIN)/python benchmarks/cpu.py

$(VENV)/packages: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet '$(TORCH)'
	$(BIN)/pip install --quiet 'setuptools>=77' ninja 'pybind11>=2.13'
	touch $@

$(VENV)/installed: $(VENV)/packages $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[demo,train,networks,export,test,lint]'
	touch $@

clean:
	rm -rf $(VENV) build nnkernels/_lib *.egg-info demo-output gallery-output
