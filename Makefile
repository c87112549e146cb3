# Every target installs what it needs. You only need make and Python 3.11, 3.12 or 3.13.
# PYTHON=/path/to/python3.12 picks the interpreter, ARGS="…" adds arguments to the program that a target runs.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
ARGS ?=
# More than two cores, as many tests wait for processes and clocks, and those of acceptance most.
WORKERS ?= 3
ACCEPTANCE_WORKERS ?= 4
SPREAD := -n $(WORKERS) --dist worksteal
TESTS := $(SPREAD) tests/unit tests/integration

export PIP_ROOT_USER_ACTION := ignore
# The tests start hundreds of Python processes, which would all compile our modules again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-acceptance test-stack test-images test-browser test-units test-maintenance test-monitoring test-balancer test-attacks test-federation lint lint-types lint-tests lint-others format bench docs constraints wheel clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.product ## Find and track made-up videos, under two minutes once installed
	$(BIN)/maia demo $(ARGS)

test: $(VENV)/.dev ## Run the unit and integration tests; ARGS="-k claims -n0" runs a few
	$(BIN)/python -m pytest $(TESTS) $(ARGS)

coverage: $(VENV)/.dev ## Run the same tests and report which lines they reach; takes twice as long
	@rm -rf .coverage.d && mkdir .coverage.d
	$(BIN)/python -m pytest --cov --cov-report=term $(TESTS) $(ARGS)

test-acceptance: $(VENV)/.dev ## Test the whole product from outside: commands, demo, maia up
	$(BIN)/python -m pytest -n $(ACCEPTANCE_WORKERS) --dist load --maxschedchunk 1 tests/acceptance $(ARGS)

test-stack: $(VENV)/.dev ## Test maia up and Prefect workers through Prefect's own time limits
	$(BIN)/python -m pytest -n 0 -v -m "stack or not stack" tests/acceptance/stack $(ARGS)

test-images: $(VENV)/.dev ## Build the image and run compose.yaml with podman; see docs/deployment.md
	$(BIN)/python -m pytest -n 0 -v tests/images $(ARGS)

test-browser: $(VENV)/.browser ## Look at the dashboard with Chromium, which must be installed
	$(BIN)/python -m pytest -n 0 -v tests/browser $(ARGS)

test-units: $(VENV)/.dev ## Boot the systemd units in a Debian container; see docs/deployment.md
	$(BIN)/python -m pytest -n 0 -v tests/units $(ARGS)

test-maintenance: $(VENV)/.dev ## Kill backups, break updates, fill a disk; the last needs root
	$(BIN)/python -m pytest -n 0 -v tests/maintenance $(ARGS)

test-monitoring: $(VENV)/.dev ## Run every alert rule and dashboard query in Prometheus
	$(BIN)/python -m pytest -n 0 -v tests/monitoring $(ARGS)

test-balancer: $(VENV)/.dev ## Run the service's processes behind nginx, and kill one; see docs/deployment.md
	$(BIN)/python -m pytest -n 0 -v tests/balancer $(ARGS)

test-attacks: $(VENV)/.dev ## Flood the service, and starve it; tests/integration has the quick attacks
	$(BIN)/python -m pytest -n 0 -v tests/attacks $(ARGS)

test-federation: $(VENV)/.dev ## Let five sites learn in chaos until they agree; ROUNDS=200 for longer
	$(BIN)/python -m pytest -n 0 -v tests/federation $(ARGS)

lint: $(VENV)/.dev ## Check formatting, types, imports and deployment files
	@$(MAKE) --no-print-directory -j 2 lint-types lint-others lint-tests

lint-types: # half of the work of lint, on one core
	$(BIN)/mypy

# Every test can be imported. That also compiles them, which otherwise each worker of `make test` does for itself.
lint-tests:
	@said=$$($(BIN)/python -m pytest -n 0 --collect-only -qqq) || { echo "$$said"; exit 1; }

lint-others:
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	.ci/deployments $(VENV)

format: $(VENV)/.dev ## Format the code, and fix what can be fixed automatically
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: $(VENV)/.bench ## Run the benchmarks
	$(BIN)/python -m tests.bench $(ARGS)

docs: $(VENV)/.product ## Rewrite docs/configuration.md from the settings
	$(BIN)/maia config docs > docs/configuration.md.new && mv docs/configuration.md.new docs/configuration.md

wheel: ## Test the installed wheel without the source
	.ci/wheel $(ARGS)

constraints: $(VENV)/.dev ## Resolve all dependencies again, for each supported Python
	$(BIN)/python .ci/constraints.py

clean: ## Remove everything that the other targets made
	rm -rf $(VENV) build dist *.egg-info htmlcov .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.product: $(SOURCES) | $(BIN)/python
	$(PIP) install -c constraints.txt pip setuptools
	$(PIP) install -c constraints.txt --no-build-isolation -e .
	@touch $@

# Most of these packages are never imported, or only in part: Python compiles what is.
$(VENV)/.dev: $(VENV)/.product
	$(PIP) install --no-compile -c constraints.txt --group dev
	@touch $@

$(VENV)/.browser: $(VENV)/.dev
	$(PIP) install -c constraints.txt --group browser
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) install -c constraints.txt --group bench
	@touch $@

# Run each candidate: a shim on the path may not work, and Debian's python3 may lack venv.
$(BIN)/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11 "$$HOME"/.pyenv/versions/3.1[123].*/bin/python3; do \
	    "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	        && echo "installing into $(VENV) with $$("$$python" --version) …" && exec "$$python" -m venv --clear $(VENV); \
	done; \
	echo "make: found no Python 3.11 to 3.13 with the venv module: install one" \
	    "(Debian: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2; exit 69
