# `make demo`: set up and run the whole story.   `make test`: set up and pass every test.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu)
EXTRA := $(or $(GPU),cpu)
# uv does not read pip's settings: a folder of wheels that pip knows is passed on, and then holds the
# right torch; elsewhere uv picks torch's own builds for this machine.
ifdef PIP_FIND_LINKS
TORCH := UV_FIND_LINKS="$(PIP_FIND_LINKS)"
BACKEND :=
else
TORCH :=
BACKEND := --torch-backend=$(if $(GPU),auto,cpu)
endif
# Files of unit tests side by side; what starts services has the machine for itself.
UNIT := $(BIN)/python -m pytest -m 'not e2e' --numprocesses auto --maxprocesses 8 --dist loadfile
STAMP := $(VENV)/.set-up-$(EXTRA)

.PHONY: help setup demo test unit faults check format clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(STAMP) ## the environment, in .venv

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(TORCH) $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $(BACKEND) -e '.[$(EXTRA),dev]'
	touch $@

demo: setup ## data, SFT, RL, evaluation, report: the whole story on this machine
	$(BIN)/o3rl demo --seed $(SEED)

test: setup check ## everything: format, lint, types, unit and end-to-end tests
	$(UNIT)
	$(BIN)/python -m pytest -m e2e

unit: setup ## the fast tests only
	$(UNIT)

FAULTS ?= --trials 16
faults: setup ## strikes on runs: processes killed, frozen, a node lost, a full disk (FAULTS=…)
	$(BIN)/python -m tests.faults.chaos $(FAULTS)

check: setup ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_layers.py

format: setup ## mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and everything that runs made
	rm -rf $(VENV) runs
