# make train: the environment, the installation, the main job. make test: the same, then every test. make help: the rest.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
ARGS ?=
NEWEST ?= python3.13
NEWEST_VENV ?= .venv-newest

BIN = $(VENV)/bin
PINS := setup.cfg pyproject.toml $(wildcard constraints/*.txt)

# $(call create,PYTHON,MAJOR,MINOR,VENV): a virtual environment, or one line where the interpreter is too old.
define create
@$(1) -c 'import sys; sys.exit(0 if sys.version_info >= ($(2), $(3)) else "error: $(1) is Python %d.%d and $(2).$(3) or newer is needed: name one as in make PYTHON=python$(2).$(3)" % sys.version_info[:2])'
$(1) -m venv $(4)
endef

# $(call install,VENV,EXTRA): this checkout, editable, with the pins for the Python that the environment runs.
define install
@echo "Installing jaxsparse[$(2)] into $(1): once, a few minutes"
$(1)/bin/python -m pip install --disable-pip-version-check -qq -e '.[$(2)]' -c \
  constraints/$$($(1)/bin/python -c 'import sys; print("py313" if sys.version_info >= (3, 13) else "py311")').txt
endef

.PHONY: help
help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) JOBS=$(JOBS) (test processes) ARGS= (passed on to train, test and bench)"

.PHONY: train
train: $(VENV)/.stamp-experiments  ## install what is missing, then run the main job (ARGS="PRESET --flags")
	$(BIN)/python -m experiments.train $(ARGS)

.PHONY: test
test: $(VENV)/.stamp-all  ## install what is missing, then run the whole test suite
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

.PHONY: test-newest
test-newest: $(NEWEST_VENV)/.stamp-test  ## the contract tests on the newest jax and flax (NEWEST=python3.13)
	$(NEWEST_VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS) tests/contract

.PHONY: lint
lint: $(VENV)/.stamp-all  ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/.stamp-all  ## pyright over jaxsparse and experiments
	$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: bench
bench: $(VENV)/.stamp-all  ## performance, never a gate
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: docs
docs: $(VENV)/.stamp-all  ## the documentation, warnings are errors, into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

.PHONY: env
env: $(VENV)/.stamp-all  ## only the environment, with every extra

.PHONY: clean
clean:  ## remove environments, builds and caches; results, checkpoints and data stay
	rm -rf $(VENV) $(NEWEST_VENV) build dist docs/_build jaxsparse.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.stamp-created:
	$(call create,$(PYTHON),3,11,$(VENV))
	@touch $@

$(VENV)/.stamp-experiments: $(PINS) | $(VENV)/.stamp-created
	$(call install,$(VENV),experiments)
	@touch $@

# Everything includes the experiments: a later `make train` finds nothing to install.
$(VENV)/.stamp-all: $(PINS) | $(VENV)/.stamp-created
	$(call install,$(VENV),all)
	@touch $(VENV)/.stamp-experiments $@

$(NEWEST_VENV)/.stamp-created:
	$(call create,$(NEWEST),3,13,$(NEWEST_VENV))
	@touch $@

$(NEWEST_VENV)/.stamp-test: $(PINS) | $(NEWEST_VENV)/.stamp-created
	$(call install,$(NEWEST_VENV),test)
	@touch $@
