# Every target makes what it needs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
HOST ?= 127.0.0.1
PORT ?= 8000
ARGS ?=
PYTEST_ARGS ?=
DEBIAN_PACKAGES := libegl1 libegl-mesa0 libgl1-mesa-dri
SOURCES := selfalign server client deploy tests

# The simulator renders off screen; one thread per process is what its small kernels like best.
export MUJOCO_GL ?= egl
export LP_NUM_THREADS ?= 1

.PHONY: help sync debian serve demo test slow bench bench-full lint fmt types check map clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(STAMP) ## run the server on port 8000 (HOST=, PORT=, ARGS=)
	@exec env SELFALIGN_HOST=$(HOST) SELFALIGN_PORT=$(PORT) $(PY) -m server $(ARGS)

demo: $(STAMP) debian ## server + simulated robot: measure, play, align, swap, measure again (ARGS=)
	@$(PY) -m deploy.demo $(ARGS)

test: $(STAMP) debian ## the whole suite (PYTEST_ARGS="-k name")
	@timeout --foreground --signal=INT --kill-after=30 3600 $(PY) -m pytest $(PYTEST_ARGS)

slow: $(STAMP) debian ## the tests that take longer than a minute
	@$(PY) -m pytest -m slow $(PYTEST_ARGS)

bench: $(STAMP) ## the benchmarks, one JSON line a figure (ARGS="swap play")
	@$(PY) -m tests.benchmarks $(ARGS)

bench-full: $(STAMP) ## pi0's real widths beside transformers and openpi (ARGS="--depth 4")
	@$(PY) -m tests.benchmarks.full $(ARGS)

lint: $(STAMP) ## ruff and the import contracts
	@$(PY) -m ruff check $(SOURCES)
	@$(PY) -m ruff format --check $(SOURCES)
	@$(VENV)/bin/lint-imports | tail -n 1

fmt: $(STAMP) ## format and sort imports
	@$(PY) -m ruff check --fix --exit-zero --quiet $(SOURCES)
	@$(PY) -m ruff format $(SOURCES)

types: $(STAMP) ## mypy
	@$(PY) -m mypy

check: lint types test ## what a commit should pass

map: $(STAMP) ## write the file map of ARCHITECTURE.md
	@$(PY) -m tests.file_map

sync: $(STAMP) ## only make the environment

$(STAMP): pyproject.toml constraints.txt
	@bash deploy/make_venv.sh "$(VENV)"
	@touch $@

# MuJoCo draws through EGL. The server needs none of these.
debian:
	@bash deploy/debian_packages.sh $(DEBIAN_PACKAGES)

clean: ## remove caches and build output; keeps .venv and data/
	@rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	@rm -rf $(VENV)
