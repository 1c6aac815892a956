# make demo     install what serving needs into .venv, start a node, send it real studies, show what comes back
# make test     install the rest, then everything that must hold: lint, types, imports, tests
# make check    the same without installing Debian packages
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INPUT ?=
OUTPUT ?= demo-output
PYTEST_OPTIONS ?= -q
INSTALL_INPUTS := pyproject.toml constraints.txt scripts/install
DEMO_STAMP := $(VENV)/.installed-demo
DEV_STAMP := $(VENV)/.installed-dev
export PYTHON

.PHONY: help demo test check lint types imports tests format docs debian-packages clean

help:
	@sed -n 's/^# //p' Makefile | head -3

demo: $(DEMO_STAMP)
	@$(BIN)/radnode demo --output '$(OUTPUT)' $(if $(INPUT),--input '$(INPUT)')

test: debian-packages check

check: lint types imports tests

# What serving needs is within what the tests need, so the demonstration installs nothing where tests have run.
$(DEMO_STAMP): $(INSTALL_INPUTS)
	@echo "installing radnode into $(VENV) (a few minutes the first time)"
	@scripts/install $(VENV) cpu,demo --editable
	@touch $@

$(DEV_STAMP): $(INSTALL_INPUTS)
	@echo "installing radnode and what its tests need into $(VENV) (some minutes the first time)"
	@scripts/install $(VENV) dev --editable
	@touch $@ $(DEMO_STAMP)

debian-packages:
	@scripts/debian-packages

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_STAMP)
	$(BIN)/mypy

imports: $(DEV_STAMP)
	$(BIN)/lint-imports

tests: $(DEV_STAMP)
	$(BIN)/python -m pytest $(PYTEST_OPTIONS)

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Rewrite the pages and schemas that are made from the code.
docs: $(DEV_STAMP)
	$(BIN)/python scripts/generate_docs.py

clean:
	rm -rf $(VENV) demo-output build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
