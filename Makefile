# make quickstart: a venv with the tested versions, then the main job on the model inside the package
# make test: the default test suite, offline; a worker a core, a file a worker: its fixtures are made once
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: quickstart test lint reference catalogue clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

quickstart: $(VENV)/installed
	$(BIN)/lorawright quickstart

test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reference: $(VENV)/installed
	$(BIN)/python tools/build_reference.py

catalogue: $(VENV)/installed
	$(BIN)/python tools/build_catalogue.py
	-$(BIN)/python tools/build_catalogue.py --missing

clean:
	rm -rf $(VENV) quickstart runs
