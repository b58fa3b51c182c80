# Every target sets the project up first: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where frontier-check finds mnist and fashion-mnist.
DATA ?= data
READY := $(VENV)/.ready
# One thread per process: two OpenMP pools side by side on two cores are far slower than one each.
PYTEST := OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n auto --maxprocesses=4

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow docs-test keys lint format types check \
	frontier-check clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY)  ## make .venv and install the pinned packages

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rvsm needs Python 3.11 or later as $(PYTHON); name another: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "python3 could not make a virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## make the data, train dense, l1, l0 and transformed-l1, write the report
	$(BIN)/rvsm reproduce --out runs/reproduce
	@echo
	@echo "The report is in runs/reproduce/report.html: open it in a browser."

test: $(READY)  ## the tests that take minutes altogether
	$(PYTEST) -m "not slow"

test-slow: $(READY)  ## the tests that take minutes each
	$(PYTEST) -m slow

docs-test: $(READY)  ## run the Python examples of README.md and docs/
	$(PYTEST) tests/test_docs.py

keys: $(READY)  ## write the keys of the configuration into docs/config.md
	{ sed '/<!-- keys -->/q' docs/config.md && $(BIN)/rvsm train --keys; } > docs/config.md.tmp
	mv docs/config.md.tmp docs/config.md

lint: $(READY)  ## ruff: rules and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

frontier-check: $(READY)  ## recount the winning models of the frontier; DATA=FOLDER of mnist, ...
	$(BIN)/python benchmarks/frontier/check.py --data $(DATA)

check: test lint types  ## what a change must pass

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
