# Every target does its whole set-up: the Debian packages, then .venv with the pinned Python packages. Both are done
# once, and again when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
# A folder with model.c and model.h, as `tinynas compile` writes them.
MODEL_DIR ?= $(CURDIR)/build/sample_model
BOARDS := $(notdir $(patsubst %/,%,$(dir $(wildcard firmware/boards/*/board.mk))))
C_FILES = $(shell find firmware -name '*.[ch]')

.PHONY: setup system demo test lint format firmware clean
.DELETE_ON_ERROR:

setup: $(STAMP)

system:
	@PYTHON='$(PYTHON)' bash scripts/system-packages.sh

$(STAMP): pyproject.toml constraints.txt | system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/tinynas run --device stm32f405 --data fashion-mnist -o studies/demo

# Two workers, so one thread each: torch and tensorflow would otherwise take every core twice.
test: setup
	OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 $(BIN)/python -m pytest -n 2

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(C_FILES)

# The harness with a model for every board: a small one, unless MODEL_DIR names the folder of another.
firmware: $(BOARDS:%=firmware-%)

firmware-%: $(MODEL_DIR)/model.c
	$(MAKE) -C firmware BOARD=$* MODEL_DIR=$(MODEL_DIR) OUT=$(CURDIR)/build/firmware/$*

$(CURDIR)/build/sample_model/model.c: setup
	$(BIN)/python -m scripts.sample_model $(@D)

# Studies and .venv stay: the first are results, the second takes minutes to make again.
clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find tinynas devices export tests -name __pycache__ -type d -prune -exec rm -rf {} +
