# Each target makes the virtual environment and installs what it needs; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test contract verified check format bench bench-data clean

quickstart: $(VENV)/installed
	$(BIN)/phift quickstart

test: $(VENV)/installed
	$(BIN)/python -m pytest

contract: $(VENV)/installed
	$(BIN)/python -m pytest tests/contract

# With PHIFT_CONTRACT_AZURE=<subscription>/<group>/<workspace> on Azure too; writes docs/verified.md.
verified: $(VENV)/installed
	PHIFT_CONTRACT_RECORD=1 $(BIN)/python -m pytest tests/contract --deselect tests/contract/test_verified.py

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
