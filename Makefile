# Every target builds the virtual environment first, from pyproject.toml alone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two workers: tests measure memory and latency, and agents run beside them.
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder
LIMITED := tests/sim/test_scenarios.py::test_campaign_ends_at_once_if_results_cannot_be_written

.PHONY: help run test unit interop sim check format lint types contract fix cov bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

run: $(STAMP)  ## start an agent (ARGS="--node=a" passes options)
	$(BIN)/trioserf agent $(ARGS)

test: $(STAMP)  ## run all tests (ARGS="-k name" passes options, here and below)
	$(BIN)/python $(PYTEST) $(ARGS)

unit: $(STAMP)  ## run the tests that start no agents, within a minute
	$(BIN)/python $(PYTEST) -m "not interop and not sim" $(ARGS)

interop: $(STAMP)  ## run the tests that start agents, trioserf's and Serf's
	$(BIN)/python $(PYTEST) -m interop $(ARGS)

sim: $(STAMP)  ## run the simulated clusters
	$(BIN)/python $(PYTEST) -m sim $(ARGS)

check: format lint types contract test  ## run every check; green before each commit

format: $(STAMP)  ## check the format
	$(BIN)/ruff format --check .

lint: $(STAMP)  ## check style and documentation
	$(BIN)/ruff check .

types: $(STAMP)  ## check types
	$(BIN)/mypy

contract: $(STAMP)  ## check the import contracts
	$(BIN)/lint-imports

fix: $(STAMP)  ## correct style and format where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One test limits the size of files, and so breaks the data of coverage.
cov: $(STAMP)  ## run all tests and report the lines and branches that they miss
	$(BIN)/coverage erase
	-$(BIN)/coverage run $(PYTEST) --deselect $(LIMITED) $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(STAMP)  ## run the benchmarks
	$(BIN)/python scripts/bench $(ARGS)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:  ## remove environment and caches
	rm -rf $(VENV) .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache
