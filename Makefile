# make demo   the whole journey on a simulated cohort, ending in a report
# make test   lint, type check, tests
# make bench  what the encoder costs, what packing saves, what preparing costs
PYTHON ?= python3
VENV ?= .venv
DEMO ?= runs/demo
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-all bench lint format clean-demo

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.10 is needed, this is " + sys.version) if sys.version_info < (3, 10) else None'
	@$(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made: install your system's python3-venv package"; exit 1; }
	@echo "installing into $(VENV) (about two minutes, 6 GB) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

# Every step continues where it was, and does nothing when it is done.
demo: export PATH := $(CURDIR)/$(BIN):$(PATH)
demo: export ACCELERATE_LOG_LEVEL := error
demo: $(VENV)/.ready
	hlip simulate $(DEMO)/cohort --studies 2400 --seed 1
	hlip prepare $(DEMO)/cohort/manifest.jsonl $(DEMO)/store --spec demo --montage $(DEMO)/montage.png
	accelerate launch pretrain --config configs/pretrain/demo.yaml --store $(DEMO)/store --out $(DEMO)/pretrain
	hlip ask $(DEMO)/pretrain sim00012 "acute infarction" "glioma" "white matter hyperintensity" --store $(DEMO)/store
	accelerate launch finetune --config configs/finetune/demo.yaml --encoder $(DEMO)/pretrain --store $(DEMO)/store --out $(DEMO)/finetune
	accelerate launch finetune --config configs/finetune/demo.yaml --encoder $(DEMO)/pretrain --store $(DEMO)/store --out $(DEMO)/finetune_10 --cohort.fraction 0.1 --steps 100
	accelerate launch finetune --config configs/finetune/demo.yaml --encoder $(DEMO)/pretrain --store $(DEMO)/store --out $(DEMO)/finetune_1 --cohort.fraction 0.01 --batch_size 16 --steps 100
	hlip compare $(DEMO)/pretrain $(DEMO)/finetune --store $(DEMO)/store --out $(DEMO)/report --robustness --efficiency $(DEMO)/finetune_10 $(DEMO)/finetune_1

test: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not gpu" -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.ready
	$(BIN)/python -m pytest

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/encoder.py
	$(BIN)/python benchmarks/pretrain_step.py
	$(BIN)/python benchmarks/comparison.py
	$(BIN)/python benchmarks/preparing.py

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean-demo:
	rm -rf $(DEMO)
