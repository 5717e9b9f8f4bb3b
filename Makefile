# Every target builds the virtual environment first, with the versions of $(LOCK).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
STAMP := $(VENV)/.installed
LOCK := .ci/requirements.txt
COMPILE = $(BIN)/uv --system-certs pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --custom-compile-command "make lock" $(ARGS)
UNIT := -m "not interop and not sim and not slow"
# Two workers: tests measure memory and latency, and agents run beside them.
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder
LIMITED := tests/sim/test_scenarios.py::test_campaign_ends_at_once_if_results_cannot_be_written

# Without its cached bytecode, each worker and each agent compiles all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test unit interop sim check format lint types contract fix cov bench lock lowest newest clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

run: $(STAMP)  ## start an agent (ARGS="--node=a" passes options)
	$(BIN)/trioserf agent $(ARGS)

test: $(STAMP)  ## run all tests (ARGS="-k name" passes options, here and below)
	$(BIN)/python $(PYTEST) $(ARGS)

unit: $(STAMP)  ## run the tests that start no agents, in less than a minute
	$(BIN)/python $(PYTEST) $(UNIT) $(ARGS)

interop: $(STAMP)  ## run the tests that start agents, trioserf's and Serf's
	$(BIN)/python $(PYTEST) -m interop $(ARGS)

sim: $(STAMP)  ## run the simulated clusters
	$(BIN)/python $(PYTEST) -m sim $(ARGS)

check: format lint types contract test  ## run every check; green before each commit

format: $(STAMP)  ## check the format
	$(BIN)/ruff format --check .

lint: $(STAMP)  ## check style and documentation
	$(BIN)/ruff check .

# Each platform has its own cache: with one, each run would check all files again.
types: $(STAMP)  ## check types, for each platform
	$(BIN)/mypy --platform linux --cache-dir .mypy_cache/linux
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32

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

bench: $(STAMP)  ## measure Serf and trioserf side by side (ARGS=--list lists the rows)
	$(BIN)/python scripts/bench $(ARGS)

# Versions stay unless pyproject.toml requires others; ARGS=--upgrade takes the newest ones.
lock: $(STAMP)  ## write the versions and hashes of all dependencies
	$(COMPILE) --output-file $(LOCK) --extra dev pyproject.toml
	$(COMPILE) --output-file .ci/audit.txt .ci/audit.in

lowest: RESOLUTION := lowest-direct
newest: RESOLUTION := highest
lowest: $(STAMP)  ## run the unit tests with the lowest versions that pyproject.toml allows
newest: $(STAMP)  ## run the unit tests with the newest versions that pyproject.toml allows
lowest newest:
	$(PYTHON) -m venv --clear $(VENV)/$@
	$(BIN)/uv --system-certs pip install --quiet --python $(VENV)/$@/bin/python --resolution $(RESOLUTION) \
	    --editable '.[dev]'
	$(VENV)/$@/bin/python $(PYTEST) $(UNIT) $(ARGS)

$(STAMP): pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:  ## remove environment and caches
	rm -rf $(VENV) .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache
