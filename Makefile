# make demo    install, then the whole loop on the small world; results in $(WORKDIR)
# make test    install, then ruff, every unit test and one tiny loop
# make test-all  the same, then the slow tests: kills, several processes, ablations, recipes, compiles
#              for TPUs, Chromium; PARITY=1 adds the comparisons with PyTorch
# make lint    install, then ruff only
# make install the environment only
#
# PYTHON=...   makes the environment with another interpreter than the first suitable of
#              python3.11, python3.12, python3; has no effect on an environment that exists
# VENV=...     another environment than .venv
# WORKDIR=...  where the demo goes; the same WORKDIR again continues an interrupted run

VENV ?= .venv
WORKDIR ?= runs/demo
PARITY ?=
PYTEST_ARGS ?=

# Named interpreters may be launchers without a Python behind them, or lack venv: ask each one.
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	if $$p -c '$(USABLE)' >/dev/null 2>&1; then echo $$p; break; fi; done)

# The stamps are newer than everything that decides what is installed. An environment made by hand
# is kept and completed.
INPUTS := setup.cfg pyproject.toml $(wildcard constraints/*.txt)
STAMP := $(VENV)/.installed
PARITY_STAMP := $(VENV)/.installed-parity
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# jax 0.10 is the last to support Python 3.11, so the version of Python decides the pinned set.
CONSTRAINTS = $$($(PY) -c 'import sys; print("constraints/jax0.10-py311.txt" \
	if sys.version_info < (3, 12) else "constraints/jax0.11-py312.txt")')

.PHONY: demo test test-all lint install install-parity

# XLA on CPU gives its buffers back after every step; kept by the process instead, a quarter of the
# wall time goes (glibc; other systems ignore the names).
KEEP_MEMORY := MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2000000000 \
	MALLOC_TOP_PAD_=268435456

demo: $(STAMP)
	$(KEEP_MEMORY) $(PY) -m experiments.spct --config=configs/small_world.py:demo --workdir=$(WORKDIR)

PYTEST = $(KEEP_MEMORY) $(PY) -m pytest -n 2 --dist=loadfile --no-loadscope-reorder -rs --durations=15

test: lint
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: test $(if $(filter-out 0,$(PARITY)),$(PARITY_STAMP))
	$(PYTEST) -m slow $(PYTEST_ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check --quiet . || { echo "run: $(PY) -m ruff format ." >&2; exit 1; }

install: $(STAMP)

install-parity: $(PARITY_STAMP)

$(STAMP): $(INPUTS)
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
		if [ -z "$(PYTHON)" ]; then \
			echo "no Python >= 3.11 with venv found; name one with PYTHON=..." >&2; exit 1; \
		fi; \
		if ! $(PYTHON) -c '$(USABLE)'; then \
			echo "PYTHON=$(PYTHON) is older than 3.11, or has no venv" >&2; exit 1; \
		fi; \
		echo "making $(VENV) with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv "$(VENV)"; \
	fi
	@echo "installing the packages of $(CONSTRAINTS) (about a minute)"
	@$(PIP) install -qq --editable '.[test]' --constraint $(CONSTRAINTS)
	@touch $@

# A CPU build of PyTorch that the machine's own pip settings offer goes first: elsewhere the index
# decides, and its build for Linux carries several GB of CUDA libraries.
$(PARITY_STAMP): $(STAMP)
	-@$(PIP) install -qq --no-index --no-deps torch==2.13.0 2>/dev/null
	@echo "installing PyTorch and transformers"
	@$(PIP) install -qq --editable '.[test,parity]' --constraint $(CONSTRAINTS)
	@touch $@
