# Each target sets up what it needs in .venv, once. Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
BENCHMARKS := encoder mixed predictors memory precision generation pipelines finetune scale_out serving
# transformers 4.37 cannot be installed beside 5: it has an environment of its own, on the same torch.
OLD_VENV := .venv-transformers437
OLD      := $(OLD_VENV)/.installed
# LlamaIndex cannot be installed beside openai 3.
LLAMA_VENV := .venv-llama-index
LLAMA      := $(LLAMA_VENV)/.installed
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev
PINNED_INSTALL = $(PY) -m pip install --disable-pip-version-check --quiet --no-compile -c constraints.txt
# What one process compiles, the next hundred need not: Ray starts many, and some of its own write no byte code.
export PYTHONDONTWRITEBYTECODE :=
COMPILE = $(PY) -m compileall -qq -j 0 "$$($(PY) -c 'import ray; print(*ray.__path__)')" || true
# Where Python comes without ensurepip, its pip installs one from outside.
new_environment = $(PYTHON) -m venv $(1) >/dev/null 2>&1 || { \
  $(PYTHON) -m venv --clear --without-pip $(1) && $(PYTHON) -m pip --python $(1)/bin/python install --quiet pip; }

.PHONY: help install demo serve submit test lint types bench gpu-check gpu-bench parity clients hub-check pictures chaos clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14
install: $(RUN) ## only set up what running needs, in .venv
demo: $(RUN) ## build a corpus from this Python, score it, show what came out (under three minutes)
	@$(PY) -m examples.demo
serve: $(RUN) ## serve every head on the shipped checkpoints, at http://127.0.0.1:8000
	@$(PY) -m serving.app
submit: $(RUN) ## start a local cluster, submit a scoring job to it over HTTP, follow it, stop the cluster
	@$(PY) -m examples.submit
test: $(DEV) ## run the tests, as many files at once as there are cores, up to four
	@$(PY) -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadgroup --no-loadscope-reorder
lint: $(DEV) ## ruff
	@$(PY) -m ruff check .
types: $(DEV) ## mypy, strict on bigbird
	@$(PY) -m mypy
bench: $(DEV) $(OLD) ## every benchmark, ours beside the peers (long; benchmarks/RESULTS.md keeps the figures)
	@for name in $(BENCHMARKS); do echo "== $$name"; $(PY) -m benchmarks.$$name || exit 1; done
gpu-check: $(DEV) ## the CUDA path against the oracle, on this machine's GPU
	@$(PY) -c 'import torch, sys; sys.exit(0 if torch.cuda.is_available() else "gpu-check: torch sees no CUDA device here")'
	@$(PY) -m pytest -m gpu
gpu-bench: $(DEV) ## every head against the CPU, then tokens/s, on this machine's GPU
	@$(PY) -m benchmarks.gpu
parity: $(DEV) $(OLD) ## the whole parity suite, against transformers 5.23 and 4.37
	@TRANSFORMERS_437_PYTHON=$(CURDIR)/$(OLD_VENV)/bin/python $(PY) -m pytest tests/bigbird
clients: $(DEV) $(LLAMA) ## the programs that speak to the service, LlamaIndex in an environment of its own among them
	@LLAMA_INDEX_PYTHON=$(CURDIR)/$(LLAMA_VENV)/bin/python $(PY) -m pytest tests/serving/test_harness_clients.py
hub-check: $(DEV) ## published checkpoints against transformers, on a machine with internet
	@$(PY) tests/support/hub_check.py $(HUB_IDS)
pictures: $(DEV) ## README's pictures, taken anew with headless Chromium
	@$(PY) -m examples.pictures
chaos: $(DEV) ## kill actors, nodes and the driver of a scoring job, twenty times over (long)
	@$(PY) -m pytest -m chaos

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; \
	ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
	found = "{} is {}.{}.{}".format(sys.executable, *sys.version_info[:3]); \
	sys.exit(0 if ok else "this project needs Python 3.11 to 3.13; " + found + ". Name another: make PYTHON=python3.12")'
	@$(call new_environment,$(VENV))
	@$(PINNED_INSTALL) --upgrade pip  # an old one resolves slowly

$(RUN): pyproject.toml constraints.txt | $(VENV)/bin/python  # a stamp: made again when the pins change
	@echo "installing into $(VENV): once, a minute or two"
	@$(PINNED_INSTALL) -e '.[ray,train]'
	@$(COMPILE)
	@touch $@
$(DEV): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV), with development tools: once, a minute or two"
	@$(PINNED_INSTALL) -e '.[ray,train,hub,spiece,parity,dev,clients]'
	@$(COMPILE)
	@touch $@ $(RUN)
$(OLD): constraints.txt | $(VENV)/bin/python
	@echo "installing transformers 4.37.2 into $(OLD_VENV): once, some minutes"
	@$(call new_environment,$(OLD_VENV))
	@$(OLD_VENV)/bin/python -m pip install --disable-pip-version-check --quiet \
	  "transformers==4.37.2" "numpy<2" $$(grep -E '^(torch|safetensors|sentencepiece)==' constraints.txt)
	@touch $@
$(LLAMA): constraints.txt | $(VENV)/bin/python
	@echo "installing LlamaIndex into $(LLAMA_VENV): once, about a minute"
	@$(call new_environment,$(LLAMA_VENV))
	@$(LLAMA_VENV)/bin/python -m pip install --disable-pip-version-check --quiet \
	  "llama-index-llms-openai-like==0.8.1" "llama-index-embeddings-openai-like==0.4.0" "openai==2.54.0"
	@touch $@
clean: ## remove what was built or written here, the environment included
	rm -rf $(VENV) $(OLD_VENV) $(LLAMA_VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
