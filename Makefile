# Everything sets itself up: a virtual environment in .venv, made at the first use and kept for the next.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo ui test test-all test-slow test-core examples torture lint format reference docs docs-serve \
	bench bench-calls metrics clean

help:
	@echo "make demo        run a real flow, kill it half-way, see it go on; STORE=flows.db, DEMO_ARGS=--help"
	@echo "make ui          serve pages that show a store, live; STORE=flows.db, as make demo has it"
	@echo "make test        every promise, on each face and engine, some minutes; WORKERS=4, TEST_ARGS='-k survey'"
	@echo "make test-all    the whole: all inputs, all files on a disk, and the slow ones; what must pass before it lands"
	@echo "make test-slow   of the whole, the slow ones"
	@echo "make test-core   what must hold on every supported Python; PYTHON=python3.12 VENV=.venv-3.12"
	@echo "make examples    the examples of frameworks, the heavy ones too, which get an environment of their own"
	@echo "make torture     power cuts, kills, disk errors, damage, a model; MINUTES=10, or leases alone; TAKE_OVERS=10000"
	@echo "make lint        linter, formatter's check, type checkers"
	@echo "make format      do what the linter and the formatter can do by themselves"
	@echo "make reference   write docs/reference.md anew from the docstrings"
	@echo "make docs        build the site of the documentation in build/docs/site"
	@echo "make docs-serve  the same, shown at http://127.0.0.1:8000, where its search works, too; DOCS_PORT=8080"
	@echo "make bench       measure against the peers; BENCH_ARGS=--quick, or '--only put,get-*'"
	@echo "make bench-calls measure single calls"
	@echo "make metrics     how large, how branched, how entangled the package is; METRICS_ARGS=--json"
	@echo "make clean       remove the virtual environment and what the tools have left"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[demo]'
	@touch $@

$(VENV)/.ui: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[cli,ui]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[dev]'
	$(PIP) install --no-deps pydantic-ai-harness==0.62.0  # it pins a pydantic-ai that is older than what durability needs
	@touch $@ $(VENV)/.demo $(VENV)/.ui

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[test]'
	@touch $@

# Frameworks that would bring other versions of what the tests use, or more than everything else together.
$(VENV)-examples/.examples: pyproject.toml
	$(PYTHON) -m venv $(VENV)-examples
	$(VENV)-examples/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[examples]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) install --editable '.[bench]'
	@touch $@

# STORE=postgresql://… is a server, and needs the extra: it is installed then.
DRIVER = case "$(STORE)" in postgres*) $(BIN)/python -c "import asyncpg" 2>/dev/null || $(PIP) install --editable '.[postgres]';; esac

demo: $(VENV)/.demo
	@$(DRIVER)
	@mkdir -p build
	@$(BIN)/python -m demo $(if $(STORE),--store '$(STORE)') $(DEMO_ARGS)
	@echo "To look at it in a browser, live: make ui$(if $(STORE), STORE='$(STORE)')"

# Beside it, in another terminal: make demo STORE=build/flows.db DEMO_ARGS='--pace 0.2'
ui: $(VENV)/.ui
	@$(DRIVER)
	@mkdir -p build
	@$(BIN)/python -c "import sys; from contextstore import ContextStore; ContextStore(sys.argv[1]).__enter__().close()" '$(or $(STORE),build/flows.db)'
	@$(BIN)/python -m contextstore ui --store '$(or $(STORE),build/flows.db)'

# Tests start many processes. To compile everything anew in each would take as long as some of the tests.
test test-all test-slow test-core torture: export PYTHONPYCACHEPREFIX = $(abspath $(VENV))/bytecode
unexport PYTHONDONTWRITEBYTECODE

# Four at a time, on two cores: many tests wait for a process, a server or a timeout.
PARALLEL = --numprocesses $(or $(WORKERS),4) --dist worksteal

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow and not thorough" $(PARALLEL) $(TEST_ARGS)

test-all: export CONTEXTSTORE_TEST_ALL = 1
test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) $(TEST_ARGS)
	$(MAKE) test-slow

# Those that take longer than some seconds each, the torture's short run among them. What measures goes by itself.
test-slow: export CONTEXTSTORE_TEST_ALL = 1
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow and not alone" --numprocesses $(or $(WORKERS),3) --dist worksteal $(TEST_ARGS)
	$(BIN)/python -m pytest -m "slow and alone" $(TEST_ARGS) || [ $$? = 5 ]  # TEST_ARGS may have chosen none of these

examples: export CONTEXTSTORE_EXAMPLES_PYTHON = $(abspath $(VENV)-examples)/bin/python
examples: $(VENV)/.dev $(VENV)-examples/.examples
	$(BIN)/python -m pytest tests/integrations/test_examples_*.py $(TEST_ARGS)

# Power cuts, disk errors and damage, for minutes: prints a table of faults, cases and losses.
torture: $(VENV)/.dev
	$(BIN)/python -m tests.torture --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) \
		$(if $(TAKE_OVERS),--take-overs $(TAKE_OVERS))

# What must hold on every supported Python. Not what goes from instruction to instruction (tests/support/instructions.py):
# Python 3.12.1 now and then tells a trace function of none.
CORE_TESTS := $(foreach name,contract model keys errors atomic_writer,tests/contract/test_$(name).py) \
	$(foreach name,forms refused depth equality typed misfits,tests/values/test_values_$(name).py) \
	$(foreach name,writer cancellation cancellation_storms,tests/dispatch/test_$(name).py) \
	$(foreach name,processes_lock single_put format_number migration_from_earlier,tests/sqlite/test_$(name).py) \
	$(foreach name,crash ending sudden_ending ending_of_the_loop fork_of_an_open_store,tests/process/test_$(name).py) \
	$(foreach name,sync sync_ending interrupts processes,tests/process/test_$(name).py) \
	$(foreach name,inline inline_nested commit_order,tests/process/test_$(name).py)
test-core: $(VENV)/.test
	$(BIN)/python -m pytest -m "not one_python and not slow" $(PARALLEL) $(CORE_TESTS) $(TEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(VENV)/.dev
	$(BIN)/python -m docs.tools.reference

docs: reference
	$(BIN)/python -m docs.tools.site

docs-serve: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/docs/site $(or $(DOCS_PORT),8000)

# About ten minutes, during which nothing else should run; BENCH_ARGS=--quick takes two and writes nothing, as does a part
# ("--only put,get-*"). Two checkouts are compared by python -m benchmarks.compare.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-calls: $(VENV)/.bench
	$(BIN)/python -m pytest benchmarks $(BENCH_ARGS)

metrics: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.metrics $(METRICS_ARGS)

clean:
	rm -rf $(VENV) $(VENV)-examples .mypy_cache .ruff_cache .hypothesis .benchmarks dist build
