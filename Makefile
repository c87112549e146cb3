# Every target installs what it needs by itself, from nothing but make and a Python 3.11 to 3.13.
# PYTHON=/path/to/python3.12 chooses the interpreter, ARGS="…" is handed on to the program a target runs.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
ARGS ?=

export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: help demo test test-stack test-images test-units test-monitoring lint format bench docs constraints wheel clean

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.product ## Hunt and track a synthetic catalogue, under 120 s after installation
	$(BIN)/maia demo $(ARGS)

test: $(VENV)/.dev ## Run the tests and report coverage; ARGS="-k claims -n0" narrows it
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term $(ARGS)

test-stack: $(VENV)/.dev ## Drive maia up, and workers of a Prefect server, from outside
	$(BIN)/python -m pytest -n 0 --no-cov -v tests/acceptance/stack $(ARGS)

test-images: $(VENV)/.dev ## Build the image and run the stack of compose.yaml with podman; see docs/deployment.md
	$(BIN)/python -m pytest -n 0 --no-cov -v tests/images $(ARGS)

test-units: $(VENV)/.dev ## Boot the systemd units in a container of Debian; see docs/deployment.md
	$(BIN)/python -m pytest -n 0 --no-cov -v tests/units $(ARGS)

test-monitoring: $(VENV)/.dev ## Run every rule and every panel's query in a real Prometheus
	$(BIN)/python -m pytest -n 0 --no-cov -v tests/monitoring $(ARGS)

lint: $(VENV)/.dev ## Check form, types, import directions, and what Pleiades is deployed with
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	.ci/deployments $(VENV)

format: $(VENV)/.dev ## Lay out the code and mend what can be mended mechanically
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: $(VENV)/.bench ## Print the table of measured ratios
	$(BIN)/python -m tests.bench $(ARGS)

docs: $(VENV)/.product ## Write docs/configuration.md anew from the settings
	$(BIN)/maia config docs > docs/configuration.md.new && mv docs/configuration.md.new docs/configuration.md

wheel: ## Test the wheel where the source is gone
	.ci/wheel $(ARGS)

constraints: $(VENV)/.dev ## Resolve every version anew, for each Python that is here
	$(BIN)/python .ci/constraints.py

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info htmlcov .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/.product: $(SOURCES) | $(BIN)/python
	$(PIP) install -c constraints.txt pip setuptools
	$(PIP) install -c constraints.txt --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.product
	$(PIP) install -c constraints.txt --group dev
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) install -c constraints.txt --group bench
	@touch $@

# A shim may be on the path and yet not run, and Debian's python3 may lack venv: only running tells.
$(BIN)/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11 "$$HOME"/.pyenv/versions/3.1[123].*/bin/python3; do \
	    "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	        && echo "installing into $(VENV) with $$("$$python" --version) …" && exec "$$python" -m venv --clear $(VENV); \
	done; \
	echo "make: no Python 3.11 to 3.13 with the venv module is here: install one" \
	    "(Debian: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2; exit 69
