# Every chore is one recipe; CI calls these and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-all lint format bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
		{ echo "medl-scale needs Python 3.12 or newer; name it: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable .
	@touch $@

# Simulate an atlas, prepare it, fit ME, FE, RE and PCA, score them, and write the report.
demo: $(READY)
	rm -rf demo
	$(BIN)/medl-scale simulate demo/counts.h5ad --cells 20000 --genes 3000 --batches 12 --labels 8
	$(BIN)/medl-scale prepare demo/counts.h5ad -o demo/atlas.zarr \
		--batch-key batch --labels-key cell_type --n-top-genes 2000
	$(BIN)/medl-scale info demo/atlas.zarr
	$(BIN)/medl-scale fit demo/atlas.zarr -o demo/run --max-epochs 40

# Two processes: most of the time goes into starting frameworks, which takes one core each.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
