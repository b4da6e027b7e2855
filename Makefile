# Everything a person or a machine needs to do with this repository. `make` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help predict test unit check bench docs site clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

predict: $(VENV)/base.done  ## set up, then score the example recording and the example stay
	$(BIN)/ibt predict examples/recording.hea examples/stay.psv

test: $(VENV)/dev.done  ## set up, then run every test
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

unit: $(VENV)/dev.done  ## the fast tests alone
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow" --ignore tests/integration

check: $(VENV)/dev.done  ## formatting, lint, spelling and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy

bench: $(VENV)/dev.done  ## the speed figures of the README, measured here
	$(BIN)/python -m benchmarks

docs: $(VENV)/dev.done  ## regenerate the model cards from the bundles, and the page of the command line
	$(BIN)/ibt export --cards
	$(BIN)/python docs/cli_page.py

site: $(VENV)/dev.done  ## build the documentation site into build/site; a broken link fails
	$(BIN)/mkdocs build --strict

clean:  ## remove the environment and the caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/base.done: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP) --editable .
	touch $@

$(VENV)/dev.done: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/base.done
