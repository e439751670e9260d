# The environment lives in .venv; it is made anew when its ingredients change.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
READY := $(ENV)/ready

# The oldest versions that pyproject.toml allows; torch alone is the one of constraints.txt.
OLD := .venv-lowest

.PHONY: demo test test-fast test-lowest check docs gpu clean

demo: $(READY)
	$(BIN)/flowseg demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -n auto

test-fast: $(READY)
	$(BIN)/python -m pytest -n auto -m "not slow"

test-lowest: $(OLD)/ready
	$(OLD)/bin/python -m pytest -n auto

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) docs

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# On a machine with a GPU, by its own Python and torch; CP3 is a Python that has cellpose 3.
gpu:
	PYTHONPATH=. $(PYTHON) benchmarks/gpu.py --out gpu --minutes 10 $(if $(CP3),--peer-python $(CP3))

clean:
	rm -rf $(ENV) $(OLD) demo site

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "flowseg needs Python 3.10 or newer; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[test,check,docs,coco,rois,zarr,dask,tensorboard,bioimageio,napari]"
	touch $(READY)

$(OLD)/ready: pyproject.toml
	$(PYTHON) -m venv $(OLD)
	grep -oE '"[A-Za-z0-9-]+(\[[a-z]+\])?>=[0-9.]+"' pyproject.toml | grep -v '"torch>' \
		| sed -E 's/"//g; s/\[[a-z]+\]//; s/>=/==/' | sort -u > $(OLD)/lowest.txt
	$(OLD)/bin/python -m pip install --disable-pip-version-check --constraint $(OLD)/lowest.txt \
		--upgrade "torch==2.13.0" setuptools
	$(OLD)/bin/python -m pip install --disable-pip-version-check --constraint $(OLD)/lowest.txt \
		--no-build-isolation --editable ".[test,coco,rois,zarr,dask,tensorboard]"
	touch $(OLD)/ready
