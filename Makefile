# `make demo` and `make test` do all their own set-up, on a fresh machine too.
# PYTHON=python3.12 picks another interpreter. On Linux pip's torch brings several GB of CUDA along;
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo   takes the CPU wheel instead.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
ARGS   ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: demo test lint trust lab docs prepare clean help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): settings.ini setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing into $(VENV) (some minutes, once)'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## walk forward on the bundled sample; prints the table, time and peak memory
	OMP_NUM_THREADS=2 $(BIN)/python tools/measure.py $(BIN)/python -m hybrid_ssm demo $(ARGS)

test: export OMP_NUM_THREADS = 1
test: export HYBRID_SSM_TRIALS = off
test: lint $(READY) ## lint, every notebook and the quick tests (slow, gpu and net are left out)
	$(BIN)/nbdev_test --n_workers 2
	$(BIN)/python -m pytest tests -n 2 -m 'not slow and not long and not gpu and not net'

trust: export OMP_NUM_THREADS = 1
trust: $(READY) ## the guards in full, each with its planted defect (up to an hour)
	$(BIN)/python -m pytest tests/trust -n 2 -m 'not long and not gpu and not net'

lint: $(READY) ## ruff (layout and lint of the exported code) and mypy
	$(BIN)/python tools/style.py --check
	$(BIN)/ruff check
	$(BIN)/mypy

prepare: $(READY) ## bring modules, notebooks and README into step; twice changes nothing
	$(BIN)/python tools/prepare.py notebooks
	$(BIN)/python tools/style.py
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python tools/prepare.py readme

lab: $(READY) ## the notebooks, open in JupyterLab on this machine
	$(BIN)/python -m pip install --quiet -c constraints.txt jupyterlab
	$(BIN)/jupyter lab nbs

docs: $(READY) ## the website, into _docs (needs Quarto)
	@command -v quarto >/dev/null || { echo 'Quarto is missing: https://quarto.org/docs/get-started'; exit 1; }
	touch README.md  # newer than its notebook, so that nbdev leaves it alone
	$(BIN)/nbdev_docs --n_workers 2

clean: ## remove what was built (keeps .venv and runs)
	rm -rf _docs _proc build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache nbs/nbdev.yml
	find hybrid_ssm nbs tests tools bench \( -name __pycache__ -o -name .ipynb_checkpoints \) \
	    -prune -exec rm -rf {} +
