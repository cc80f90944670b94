# Every target sets up what it needs in .venv; PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test docs check style measure clean

help:  ## print this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## cook a first soup from handwritten digits: eight fine-tunes, no download, a few minutes
	$(BIN)/hf-soup cook recipes/digits-vit.yaml

test: $(READY)  ## run the tests, on all cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

docs: $(READY)  ## write the generated pages and build the site into site/; warnings are errors
	$(BIN)/python docs/generate.py --write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: $(READY)  ## what CI runs: lint, formatting, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

measure: $(READY)  ## how easy the code is to live in: types, density, complexity, work done twice; AGAINST=REVISION compares
	$(BIN)/python benchmarks/house.py $(if $(AGAINST),--against $(AGAINST))

style: $(READY)  ## fix lint and formatting in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## delete the environment, caches and what the demo made
	rm -rf $(VENV) soups site .pytest_cache .ruff_cache .hypothesis
