# Two commands on a fresh machine with python3 and pip: `make run` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

run: $(VENV)/ready      ## set up, then the main job on the embedded world
	$(BIN)/synthbench run cemiface

test: $(VENV)/ready     ## the tests
	$(BIN)/python -m pytest -q

check: $(VENV)/ready    ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# --without-pip: Debian's python3 lacks ensurepip; the pip that is already there installs into the environment.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[test,onnx,lmdb,arc2face]'
	touch $@

.PHONY: run test check
