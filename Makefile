# Each target makes the virtual environment and installs what it needs; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test check faults format bench bench-data clean

quickstart: $(VENV)/installed
	$(BIN)/phift quickstart

test: $(VENV)/installed
	$(BIN)/python -m pytest

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every request of a chain with every fault, and the table in docs/faults.md: some 1,000 chains, of 2 s on idle cores.
faults: $(VENV)/installed
	cd tests && $(abspath $(BIN))/python -m faults.exhaustive

bench: $(VENV)/installed
	$(BIN)/python bench/check_latency.py

# Needs 12 GB of disk; and 10 GB of memory for the way that phift is compared with.
bench-data: $(VENV)/installed
	$(BIN)/python bench/prepare_data.py
	$(BIN)/python bench/count_tokens.py

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .coverage .phift

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[local,dev]'
	touch $@
