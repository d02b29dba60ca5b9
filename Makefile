# Every habit of this project is one target; each sets up what it needs in .venv, once, by itself.
# A machine needs Python 3.11 to 3.13, pip and make. Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python

BENCHMARKS := encoder mixed predictors memory precision generation pipelines finetune scale_out serving

# The older oracle cannot live beside the newer one: an environment of its own, on the same torch.
OLD_VENV := .venv-transformers437
OLD      := $(OLD_VENV)/.installed

# What a user runs needs less than what a developer runs. A stamp is made again when the pins change.
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev
# Byte code is made at the first import of what is imported: to make all of it takes longer than all the rest.
PINNED_INSTALL = $(PY) -m pip install --disable-pip-version-check --quiet --no-compile -c constraints.txt
# Some of Ray's own processes keep no byte code and would make it again at every start; so would every process where
# Python is told to keep none.
COMPILE = $(PY) -m compileall -qq -j 0 "$$($(PY) -c 'import os, ray; ours = ray.__path__[0]; \
  print(os.path.dirname(ours) if os.environ.get("PYTHONDONTWRITEBYTECODE") else ours)')" || true

# Where a system's Python comes without ensurepip, its pip installs one into the environment from outside.
new_environment = $(PYTHON) -m venv $(1) >/dev/null 2>&1 || { \
  $(PYTHON) -m venv --clear --without-pip $(1) && $(PYTHON) -m pip --python $(1)/bin/python install --quiet pip; }

# The shipped checkpoints are trained as in inference: no dropout, the random blocks collapsed.
from_rows = --task $(1) --train out/$(2)/train.parquet --eval out/$(2)/validation.parquet --model $(3) --output $(4) \
  --max-tokens-per-batch 4096 --as-in-inference
finetune  = $(PY) -m pipelines.finetune $(from_rows)
guided    = $(PY) -m checkpoints.guided $(from_rows)
ship      = $(PY) -m checkpoints.export --state $(2) --tokenizer checkpoints/fill-mask --output checkpoints/$(1)

.PHONY: help install demo serve submit test lint types bench gpu-check gpu-bench parity chaos demo-models clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(RUN) ## only set up what running needs, in .venv

demo: $(RUN) ## build a corpus from this Python, score it, show what came out (under three minutes)
	@$(PY) -m examples.demo

serve: $(RUN) ## serve every head on the shipped checkpoints, at http://127.0.0.1:8000
	@$(PY) -m serving.app

submit: $(RUN) ## start a local cluster, submit a scoring job to it over HTTP, follow it, stop the cluster
	@$(PY) -m examples.submit

test: $(DEV) ## run the tests: files beside each other, then those that start Ray, one at a time
	@$(PY) -m pytest -m 'not ray and not chaos and not gpu' --numprocesses=auto --maxprocesses=4 --dist=loadfile
	@$(PY) -m pytest -m 'ray and not chaos and not gpu'

lint: $(DEV) ## ruff
	@$(PY) -m ruff check .

types: $(DEV) ## mypy, strict on bigbird
	@$(PY) -m mypy

bench: $(DEV) $(OLD) ## every benchmark, ours beside the peers (long; benchmarks/RESULTS.md keeps the figures)
	@for name in $(BENCHMARKS); do echo "== $$name"; $(PY) -m benchmarks.$$name || exit 1; done

gpu-check: $(DEV) ## the CUDA path against the oracle, on this machine's GPU
	@$(PY) -c 'import torch, sys; sys.exit(0 if torch.cuda.is_available() else "gpu-check: torch sees no CUDA device here")'
	@$(PY) -m pytest -m gpu

gpu-bench: $(DEV) ## tokens/s and share of the matrix rate on this machine's GPU
	@$(PY) -m benchmarks.gpu

parity: $(DEV) $(OLD) ## the whole parity suite, against transformers 5.23 and 4.37
	@TRANSFORMERS_437_PYTHON=$(CURDIR)/$(OLD_VENV)/bin/python $(PY) -m pytest tests/bigbird/test_parity*.py tests/bigbird/test_tokenizer.py tests/bigbird/test_spiece.py tests/bigbird/test_checkpoint.py

chaos: $(DEV) ## kill actors, nodes and the driver of a scoring job, twenty times over (long)
	@$(PY) -m pytest -m chaos

demo-models: $(DEV) ## train every shipped checkpoint again (hours)
	$(PY) -m pipelines.corpus --python-docs out/corpus.parquet
	$(PY) -m pipelines.corpus --python-docs out/corpus-all.parquet --include-tests
	$(PY) -m checkpoints.label_corpus --corpus out/corpus.parquet --output out/entities
	$(PY) -m checkpoints.label_corpus --corpus out/corpus-all.parquet --output out/entities-all
	cp out/entities/validation.parquet out/entities-all/validation.parquet  # of the library alone
	@for task in fill-mask text-classification question-answering multiple-choice text-generation; do \
	  $(PY) -m checkpoints.head_data --task $$task --corpus out/corpus-all.parquet --output out/$$task || exit 1; done
	$(PY) -m checkpoints.head_data --task text-generation --corpus out/corpus.parquet --output out/library
	$(PY) -m checkpoints.train_tokenizer --corpus out/corpus-all.parquet --output checkpoints/fill-mask
	$(PY) -m checkpoints.pretrain --corpus out/corpus-all.parquet --entities out/entities-all/train.parquet \
	  --tokenizer checkpoints/fill-mask --state out/pretrain.pt
	$(PY) -m checkpoints.export --state out/pretrain.pt --tokenizer checkpoints/fill-mask --output out/pretrained
	$(call finetune,masked-lm,fill-mask,out/pretrained,out/heads/fill-mask) --mask-share 0.2 \
	  --epochs 0.6 --learning-rate 1e-3 --tokens-per-step 4096
	$(call ship,fill-mask,out/heads/fill-mask)
	$(call finetune,text-classification,text-classification,checkpoints/fill-mask,out/heads/text-classification) \
	  --epochs 6.5 --learning-rate 1e-3 --warmup 0.1 --tokens-per-step 3072
	$(call ship,text-classification,out/heads/text-classification)
	$(call finetune,multiple-choice,multiple-choice,checkpoints/fill-mask,out/heads/multiple-choice) \
	  --epochs 0.7 --learning-rate 5e-4 --warmup 0.1 --tokens-per-step 3072
	$(call ship,multiple-choice,out/heads/multiple-choice)
	$(call guided,question-answering,question-answering,checkpoints/fill-mask,out/guided/question-answering) \
	  --epochs 2.5 --learning-rate 1e-3 --warmup 0.03 --tokens-per-step 3072
	$(call finetune,question-answering,question-answering,out/guided/question-answering,out/heads/question-answering) \
	  --epochs 0.5 --learning-rate 3e-4 --warmup 0.1 --tokens-per-step 3072
	$(call guided,question-answering,question-answering,out/heads/question-answering,out/guided/answers-1) --go-on \
	  --epochs 0.8 --learning-rate 1e-3 --warmup 0.05 --tokens-per-step 4096 --seed 4
	$(call guided,question-answering,question-answering,out/guided/answers-1,out/guided/answers-2) --go-on \
	  --epochs 1.2 --learning-rate 1e-3 --warmup 0.05 --tokens-per-step 4096 --seed 5
	$(call guided,question-answering,question-answering,out/guided/answers-2,out/guided/answers-3) --go-on \
	  --epochs 0.8 --learning-rate 1e-3 --warmup 0.05 --tokens-per-step 4096 --seed 6
	$(call guided,question-answering,question-answering,out/guided/answers-3,out/guided/answers-4) --go-on \
	  --epochs 1.6 --learning-rate 1e-3 --warmup 0.05 --tokens-per-step 4096 --seed 7
	$(call guided,question-answering,question-answering,out/guided/answers-4,out/guided/answers-5) --go-on \
	  --epochs 1.6 --learning-rate 1e-3 --warmup 0.05 --tokens-per-step 4096 --seed 9
	$(call ship,question-answering,out/guided/answers-5)
	$(call finetune,token-classification,entities-all,checkpoints/fill-mask,out/heads/tagger) --scheme io \
	  --epochs 1.4 --learning-rate 1e-3 --warmup 0.04 --tokens-per-step 4096 --dtype bfloat16
	$(call guided,token-classification,entities-all,out/heads/tagger,out/guided/tagger) --scheme io \
	  --epochs 0.2 --learning-rate 1e-3 --warmup 0.05 --tokens-per-step 4096 --max-length 1536
	$(call guided,token-classification,entities-all,out/guided/tagger,out/guided/tagger-again) --scheme io --go-on \
	  --epochs 0.25 --learning-rate 1e-3 --warmup 0.05 --tokens-per-step 3072 --max-length 1024 --seed 1
	$(call guided,token-classification,entities-all,out/guided/tagger-again,out/guided/tagger-last) --scheme io --go-on \
	  --epochs 0.22 --learning-rate 7e-4 --warmup 0.03 --tokens-per-step 4096 --max-length 1536 --seed 2
	$(call guided,token-classification,entities-all,out/guided/tagger-last,out/guided/tagger-whole) --scheme io --go-on \
	  --epochs 0.4 --learning-rate 1e-3 --warmup 0.05 --tokens-per-step 4096 --seed 3
	$(call guided,token-classification,entities,out/guided/tagger-whole,out/guided/tagger-library) --scheme io --go-on \
	  --epochs 0.55 --learning-rate 1e-3 --warmup 0.05 --tokens-per-step 4096 --seed 4
	$(call finetune,token-classification,entities,out/guided/tagger-library,out/heads/tagger-library) --scheme io \
	  --epochs 0.3 --learning-rate 4e-4 --warmup 0.05 --tokens-per-step 4096 --seed 5
	$(call ship,token-classification,out/heads/tagger-library)
	$(call finetune,causal-lm,text-generation,checkpoints/fill-mask,out/heads/causal-lm) --max-length 1024 \
	  --epochs 0.13 --learning-rate 1e-3 --warmup 0.1 --tokens-per-step 3072
	$(call finetune,causal-lm,library,out/heads/causal-lm,out/heads/library) \
	  --epochs 0.3 --learning-rate 1e-3 --warmup 0.1 --tokens-per-step 4096 --seed 1
	$(call guided,causal-lm,library,out/heads/library,out/guided/library) --max-length 1024 \
	  --epochs 0.3 --learning-rate 1e-3 --warmup 0.05 --tokens-per-step 3072 --seed 2
	$(call guided,causal-lm,library,out/guided/library,out/guided/library-long) --go-on \
	  --epochs 0.22 --learning-rate 7e-4 --warmup 0.05 --tokens-per-step 4096 --seed 3
	$(call finetune,causal-lm,library,out/guided/library-long,out/heads/library-1) \
	  --epochs 0.25 --learning-rate 5e-4 --warmup 0.05 --tokens-per-step 4096 --seed 4
	$(call finetune,causal-lm,library,out/heads/library-1,out/heads/library-2) \
	  --epochs 0.7 --learning-rate 8e-4 --warmup 0.05 --tokens-per-step 4096 --seed 5
	$(call finetune,causal-lm,library,out/heads/library-2,out/heads/library-3) \
	  --epochs 0.6 --learning-rate 8e-4 --warmup 0.05 --tokens-per-step 4096 --seed 6
	$(call ship,text-generation,out/heads/library-3)
	$(PY) -m checkpoints.evaluate --task fill-mask --corpus out/corpus.parquet
	$(PY) -m checkpoints.evaluate --task token-classification --data out/entities
	$(PY) -m checkpoints.evaluate_heads --task text-generation --data out/library
	@for task in text-classification question-answering multiple-choice; do \
	  $(PY) -m checkpoints.evaluate_heads --task $$task --data out/$$task || exit 1; done

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; \
	ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
	found = "{} is {}.{}.{}".format(sys.executable, *sys.version_info[:3]); \
	sys.exit(0 if ok else "this project needs Python 3.11 to 3.13; " + found + ". Name another: make PYTHON=python3.12")'
	@$(call new_environment,$(VENV))
	@$(PINNED_INSTALL) --upgrade pip  # the one that comes with a Python may be years old, and slow to resolve

$(RUN): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): once, some minutes"
	@$(PINNED_INSTALL) -e '.[ray,train]'
	@$(COMPILE)
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV), development tools included: once, some minutes"
	@$(PINNED_INSTALL) -e '.[ray,train,hub,spiece,parity,dev]'
	@$(COMPILE)
	@touch $@ $(RUN)

$(OLD): constraints.txt | $(VENV)/bin/python
	@echo "installing transformers 4.37.2 into $(OLD_VENV): once, some minutes"
	@$(call new_environment,$(OLD_VENV))
	@$(OLD_VENV)/bin/python -m pip install --disable-pip-version-check --quiet \
	  "transformers==4.37.2" "numpy<2" "$$(grep '^torch==' constraints.txt)" \
	  "$$(grep '^safetensors==' constraints.txt)" "$$(grep '^sentencepiece==' constraints.txt)"
	@touch $@

clean: ## remove what was built or written here, the environment included
	rm -rf $(VENV) $(OLD_VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
