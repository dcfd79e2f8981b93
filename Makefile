# The verbs of this repository; `make` alone explains them. Needs make, a POSIX shell and Python 3.11 to 3.13 (3.14 is
# tried last, and untested).

VENV := .venv
BIN := $(VENV)/bin
SUITES := unit integration e2e

# Any of these that is new enough will do; `make PYTHON=/path/to/python install` chooses another.
PYTHON ?=
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14 python)

# More arguments for pytest, demo and benchmarks: make test-unit ARGS="-k policy", make demo ARGS="--count 20"
ARGS ?=

# A throwaway AIRFLOW_HOME for one command, so that ~/airflow is neither read nor made.
WITH_HOME := home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && trap 'exit 130' INT && trap 'exit 143' TERM \
	&& AIRFLOW_HOME="$$home"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help install install-dev demo bench bench-peers bench-scale bench-throughput soak test-commands test-demo test-truth
.PHONY: test test-unit test-integration test-e2e test-celery test-distributed test-ui
.PHONY: matrix lint types audit format docs build clean

help: ## Show these explanations
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/.installed ## Make .venv with the package and what its tests need

install-dev: $(VENV)/.installed-dev ## The same, with the linter, the type checker and the build tools

demo: $(VENV)/.installed ## Run the example pipeline on an embedded Airflow; ARGS="--help" for its options
	@$(WITH_HOME) $(BIN)/airflow fanout demo $(ARGS)

bench: $(VENV)/.installed ## Measure beside the same Dags written by hand; ARGS="--help" for its options
	@$(WITH_HOME) $(BIN)/python -m benchmarks $(ARGS)

bench-scale: $(VENV)/.installed ## The same up to a million items, which takes some minutes
	@$(WITH_HOME) $(BIN)/python -m benchmarks --only scale $(ARGS)

bench-throughput: $(VENV)/.installed ## Branches and items a second, and where the time goes; 15 minutes
	@$(WITH_HOME) $(BIN)/python -m benchmarks.throughput $(ARGS)

bench-peers: $(VENV)/.installed ## The same fan-out in Prefect, Dagster and ZenML, which it installs; half an hour
	@$(WITH_HOME) $(BIN)/python -m benchmarks.peers $(ARGS)

test: $(VENV)/.installed ## Run all the tests, suite by suite, and show how long each took
	@summary=; status=0; \
	for suite in $(SUITES); do \
		begin=$$(date +%s); verdict=passed; \
		$(MAKE) --no-print-directory "test-$$suite" || { verdict=FAILED; status=1; }; \
		summary="$$summary$$(printf '%-12s %4d s  %s' "$$suite" $$(($$(date +%s) - begin)) "$$verdict")\n"; \
	done; \
	printf "\n$$summary"; \
	printf "%s\n" "Left out for their time: make test-celery, test-commands, test-demo, test-distributed, test-truth, test-ui."; \
	exit $$status

test-unit: ## Run the tests of plain values and of Dags that are only built
test-integration: ## Run the tests with dag.test(), one task after another
test-e2e: ## Run the tests on a real scheduler, which they start

test-unit: $(VENV)/.installed
	@$(WITH_HOME) $(BIN)/pytest tests/unit $(ARGS)

test-integration: $(VENV)/.installed
	@$(WITH_HOME) $(BIN)/pytest tests/integration -m "not demo and not commands" $(ARGS)

test-e2e: $(VENV)/.installed
	@$(WITH_HOME) $(BIN)/pytest tests/e2e -m "not demo and not truth and not commands" $(ARGS)

test-commands: $(VENV)/.installed ## Run check, report and rerun against real runs; not part of make test
	@$(WITH_HOME) $(BIN)/pytest tests/integration -m commands $(ARGS)
	@$(WITH_HOME) $(BIN)/pytest tests/e2e -m "commands and not truth" $(ARGS)

test-demo: $(VENV)/.installed ## Run the demo's tests and the longest example; 5 minutes, not part of make test
	@$(WITH_HOME) $(BIN)/pytest tests/e2e -m demo $(ARGS)
	@$(WITH_HOME) $(BIN)/pytest tests/integration -m demo $(ARGS)

test-truth: $(VENV)/.installed ## Do fan-ins say what branches did, and does simulate say so? Not part of make test
	@$(WITH_HOME) $(BIN)/pytest tests/e2e -m truth $(ARGS)

test-celery: $(VENV)/.installed-distributed ## Run the same as test-e2e on two Celery workers
	@$(WITH_HOME) FANOUT_E2E_EXECUTOR=CeleryExecutor $(BIN)/pytest tests/e2e \
		-m "not demo and not truth and not commands" $(ARGS)

test-distributed: $(VENV)/.installed-distributed ## Run docker-compose.yaml, faults, object storage, truth, examples on Celery
	@$(WITH_HOME) $(BIN)/pytest tests/distributed $(ARGS)

test-ui: $(VENV)/.installed-ui ## Look at the Fan-out tab in Chromium, which has to be installed; not part of make test
	@$(WITH_HOME) $(BIN)/pytest tests/ui $(ARGS)

matrix: $(VENV)/.installed ## Run the tests on Airflow 3.2 and 3.3 with every Python that is installed; half an hour
	@$(BIN)/python .ci/matrix.py

soak: $(VENV)/.installed-distributed ## Run test-truth with 100 groups, then 100 on Celery workers that are killed
	@$(WITH_HOME) FANOUT_TRUTH_SEEDS=0:100 $(BIN)/pytest tests/e2e -m truth $(ARGS)
	@$(WITH_HOME) FANOUT_TRUTH_SEEDS=0:100 $(BIN)/pytest tests/distributed -m truth $(ARGS)

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

$(VENV)/.installed-distributed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test-distributed]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-ui: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test-ui]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(VENV)/.installed $(VENV)/.installed-distributed $(VENV)/.installed-ui $@
