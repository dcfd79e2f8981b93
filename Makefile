# The verbs of this repository; `make` alone explains them. Needs make, a POSIX shell and Python 3.11 to 3.13 (3.14 is
# tried last, and untested).

VENV := .venv
BIN := $(VENV)/bin

# Which tests `make test` runs; make test SUITES=unit ARGS="-k policy" runs some of them.
SUITES := unit integration e2e

# Any of these that is new enough will do; `make PYTHON=/path/to/python install` chooses another.
PYTHON ?=
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14 python)

# More arguments for pytest, demo and benchmarks: make demo ARGS="--count 20"
ARGS ?=

# A throwaway AIRFLOW_HOME for one command, so that ~/airflow is neither read nor made.
WITH_HOME := home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && trap 'exit 130' INT && trap 'exit 143' TERM \
	&& AIRFLOW_HOME="$$home"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help install install-dev demo bench test test-slow matrix lint types audit format docs build clean

help: ## Show these explanations
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/.installed ## Make .venv with the package and what its tests need

install-dev: $(VENV)/.installed-dev ## The same, with what make test-slow needs, the linter, the type checker and the build tools

demo: $(VENV)/.installed ## Run the example pipeline on an embedded Airflow; ARGS="--help" for its options
	@$(WITH_HOME) $(BIN)/airflow fanout demo $(ARGS)

bench: $(VENV)/.installed ## Measure beside the same Dags written by hand; ARGS="--help" for its options
	@$(WITH_HOME) $(BIN)/python -m benchmarks $(ARGS)

test: $(VENV)/.installed ## Run unit, integration and end-to-end tests in five minutes; SUITES=unit ARGS="-k policy" for some
	@$(WITH_HOME); export AIRFLOW_HOME; summary=; status=0; \
	for suite in $(SUITES); do \
		begin=$$(date +%s); verdict=passed; \
		$(BIN)/pytest "tests/$$suite" -m "not slow" $(ARGS) || { verdict=FAILED; status=1; }; \
		summary="$$summary$$(printf '%-12s %4d s  %s' "$$suite" $$(($$(date +%s) - begin)) "$$verdict")\n"; \
	done; \
	printf "\n$$summary"; \
	printf "%s\n" "Left out for their time: the tests marked slow (make test-slow)."; \
	exit $$status

test-slow: $(VENV)/.installed-dev ## Run the tests that make test leaves out; half an hour, needs Redis, curl and Chromium
	@$(WITH_HOME); export AIRFLOW_HOME; status=0; \
	for suite in unit integration e2e distributed ui; do $(BIN)/pytest "tests/$$suite" -m "slow or ui" $(ARGS) || status=1; done; \
	exit $$status

matrix: $(VENV)/.installed ## Run the tests on Airflow 3.2 to 3.4 with every Python that is installed; an hour
	@$(BIN)/python .ci/matrix.py

lint: $(VENV)/.installed-dev ## Check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-dev ## Check the types
	@$(WITH_HOME) $(BIN)/mypy

audit: $(VENV)-audit/bin/pip-audit ## Look for known vulnerabilities in constraints.txt, where the database is in reach
	@$(BIN)/python .ci/audit.py $(VENV)-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip \
		--progress-spinner off --format json $(ARGS)

format: $(VENV)/.installed-dev ## Mend what can be mended by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-dev ## Write docs/reference.md from the docstrings and the commands' options
	@$(WITH_HOME) $(BIN)/python docs/generate_reference.py

build: $(VENV)/.installed-dev ## Build the wheel and the source distribution into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation

clean: ## Remove all that the other verbs made
	rm -rf .venv .venv-airflow-3.2 .venv-audit .venv-matrix .venv-peers build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find airflow_fanout benchmarks dags tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@for python in $(CANDIDATES); do \
		if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then \
			"$$python" -c 'import ensurepip, sqlite3, venv' || { \
				echo "$$python lacks one of the modules venv, ensurepip, sqlite3" \
					"(on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }; \
			"$$python" --version && rm -rf $(VENV) && exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo "No Python from 3.11 to 3.14 among:" $(CANDIDATES)"." \
		"Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1

# In an environment of its own: what it needs is not what is audited.
$(VENV)-audit/bin/pip-audit: | $(VENV)/bin/python
	$(BIN)/python -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet 'pip-audit>=2.9'

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(VENV)/.installed $@
