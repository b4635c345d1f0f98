# make demo    build if need be, then show what the program does
# make test    everything that CI runs
#
# The environment is .venv. The native build lives in the user's cache (RETAIN_CACHE_DIR, or ~/.cache/retain-local),
# where another clone finds it again.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
BUILD  := $(PY) native/builder
LIBS   := retain_local/lib/built
LOG    := $(VENV)/make.log

# One exact release, so that every machine tests against the same one; where an index has a CPU build of it, that is
# the one to give, as nothing here uses a GPU through PyTorch.
TORCH ?= torch==2.13.0

BINDINGS_FOLDER := import importlib.util; print(importlib.util.find_spec('llama_cpp').submodule_search_locations[0])

# a variable, because the comma would end an argument of $(call)
EXTRAS := retain-local[train,test]

NATIVE := $(shell find native -type f -not -name '*.pyc' -not -path 'native/package/*')

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# $(call quietly,what is done,command): the command's output is shown when it fails
define quietly
	@echo "retain-local: $(1)"
	@{ $(2); } >$(LOG) 2>&1 || { tail -n 30 $(LOG); echo "retain-local: failed: $(1); the whole log: $(LOG)"; exit 1; }
endef

.PHONY: all install demo test lint native-test sanitize stock clean clean-cache
.DEFAULT_GOAL := all

all: install

install: $(VENV)/installed $(LIBS)

demo: install
	@$(VENV)/bin/retain-local demo

test: lint
	@$(BUILD) test
	@$(BUILD) test --sanitize
	@RETAIN_STOCK_LIB_DIR="$$($(BUILD) stock)" && RETAIN_SERVER="$$($(BUILD) server)" && \
		export RETAIN_STOCK_LIB_DIR RETAIN_SERVER && $(VENV)/bin/pytest -q tests $(PYTEST_ARGS)

lint: install $(VENV)/extras
	@ruff check --quiet . && ruff format --quiet --check . || { echo "retain-local: run ruff check --fix . && ruff format ."; exit 1; }
	@mypy >$(LOG) || { cat $(LOG); exit 1; }
	@lint-imports >$(LOG) || { cat $(LOG); exit 1; }

native-test: $(VENV)/tools
	@$(BUILD) test

sanitize: $(VENV)/tools
	@$(BUILD) test --sanitize

# prints the directory of the stock libraries
stock: $(VENV)/tools
	@$(BUILD) stock

clean:
	rm -rf $(VENV) retain_local/lib

clean-cache:
	@$(PYTHON) native/builder clean

$(PY):
	@echo "retain-local: making the environment $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "retain-local needs Python 3.10 or newer")'
	@$(PYTHON) -m venv $(VENV) || { echo "retain-local: no venv (Debian, Ubuntu: apt install python3-venv)"; exit 1; }

$(VENV)/tools: pyproject.toml | $(PY)
	$(call quietly,installing the build tools,$(PIP) install 'scikit-build-core>=1.1' 'setuptools-scm>=8' $$($(BUILD) missing-tools))
	@touch $@

# The bindings alone, without a native build of their own: ours takes its place.
$(VENV)/bindings: pyproject.toml $(VENV)/tools
	@$(BUILD) sdist >$(VENV)/sdist
	$(call quietly,installing the bindings,CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF" \
		$(PIP) install --no-build-isolation "$$(cat $(VENV)/sdist)")
	@touch $@

# Python is imported from the checkout: an edit of it needs no installation. The bindings have no libraries of their own;
# the link lets a program import them first.
$(VENV)/installed: pyproject.toml native/package/CMakeLists.txt $(VENV)/bindings | $(LIBS)
	$(call quietly,installing retain-local,$(PIP) install --no-build-isolation --editable .)
	@ln -sfn "$(CURDIR)/retain_local/lib" "$$($(PY) -c "$(BINDINGS_FOLDER)")/lib"
	@touch $@

$(LIBS): $(NATIVE) $(VENV)/tools
	@$(BUILD) libs --out retain_local/lib
	@touch $@

# The package is there already, so that pip takes what its extras ask for, in the ordinary way.
$(VENV)/extras: pyproject.toml | $(VENV)/installed
	$(call quietly,installing what the tests need,$(PIP) install "$(TORCH)" "$(EXTRAS)")
	@touch $@
