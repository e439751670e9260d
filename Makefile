# The environment lives in .venv; it is made anew when its ingredients change.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
READY := $(ENV)/ready

.PHONY: demo test check clean

demo: $(READY)
	$(BIN)/flowseg demo --out demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(ENV) demo

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "flowseg needs Python 3.10 or newer; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[test,check,coco,rois]"
	touch $(READY)
