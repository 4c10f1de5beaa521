# The few commands a developer repeats; `make help` lists them.
PYTHON ?= python3
CORES ?= all
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check

# Where it is set, as in many containers, every process compiles all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test format clean

help: ## list these commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.demo ## install, run the default configuration, name the report
	$(BIN)/snakemake --cores $(CORES)
	@echo "Look at results/demo/report.html"

test: $(VENV)/.test ## install, lint, run every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/python docs/options.py --check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

format: $(VENV)/.test ## format, fix what can be fixed, write the tables of config/README.md
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow
	$(BIN)/python docs/options.py

clean: ## remove what a run wrote; downloads and .venv stay
	rm -rf results .snakemake .pytest_cache .ruff_cache

# A pip as old as some Pythons bring takes twice as long.
$(BIN)/python: | requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --constraint requirements.lock --upgrade pip

$(VENV)/.demo: requirements.lock pyproject.toml | $(BIN)/python
	$(INSTALL) --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.test: requirements.lock pyproject.toml | $(BIN)/python
	$(INSTALL) --constraint requirements.lock --editable .[test]
	@touch $@ $(VENV)/.demo
