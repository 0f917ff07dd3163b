# Two commands on a fresh machine with python3 and pip: `make run` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PACKAGE := .[test,onnx,lmdb,arc2face,dashboard,ray]

run: THEN = the demo runs: six to nine minutes on two cores. Stop it at any time, the same command continues
test: THEN = the tests run
check: THEN = lint and types are checked

run: $(VENV)/ready      ## set up, then the main job on the embedded world
	$(BIN)/synthbench run cemiface

test: $(VENV)/ready     ## the tests
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/ready    ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# --without-pip: Debian's python3 lacks ensurepip; the pip that is already there installs one into the environment, for extras later on.
$(VENV)/ready: pyproject.toml
	@echo "First, once: pip downloads and unpacks PyTorch and the rest, some gigabytes, into $(VENV). That takes minutes."
	@echo "Then: $(or $(THEN),nothing more)"
	@$(PYTHON) -m venv --without-pip $(VENV)
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet pip
	@for pause in 20 120 0; do \
	  echo "$(BIN)/python -m pip install --editable '$(PACKAGE)'"; \
	  $(BIN)/python -m pip install --editable '$(PACKAGE)' && exit 0; \
	  [ $$pause = 0 ] || { echo "That failed; a download that broke off goes on in $$pause s."; sleep $$pause; }; \
	done; exit 1
	@touch $@

.PHONY: run test check
