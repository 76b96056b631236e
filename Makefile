# Each target sets up what it needs in .venv; nothing has to be installed or activated by hand.
# From a shell, the same commands work after `make env` and `source .venv/bin/activate`.

# The Python to make .venv with, instead of the first one found: make env PYTHON=/path/to/python (after make clean-env)
PYTHON ?=
# More for pytest: make test ARGS="-k growing"
ARGS ?=

VENV := .venv
READY := $(VENV)/ready

# The stages in dvc.yaml say `python`: this makes it the one in .venv.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
unexport PYTHONHOME

.PHONY: help env repro test fuzz chaos lint clean clean-env
.DEFAULT_GOAL := help

help:  ## what can be made
	@echo 'make TARGET, where TARGET is one of:'
	@sed -n 's/^\([a-z-]*\):.*  ## /\1	/p' $(MAKEFILE_LIST) | expand -t 12 | sed 's/^/  /'

env: $(READY)  ## set up .venv (about 150 packages, 6 GB)
	@$(SHELL) .ci/repository.sh
	@echo 'Ready. To use dsrg and dvc from this shell: source $(VENV)/bin/activate'

repro: $(READY)  ## run the pipeline: dvc repro
	@$(SHELL) .ci/repository.sh
	@python .ci/repro.py

test: $(READY)  ## run the tests
	python -m pytest -n 2 --dist worksteal tests $(ARGS)

fuzz: $(READY)  ## broken, odd and evil files by the thousand for every reader
	python -m pytest -n 2 -m fuzz tests $(ARGS)

chaos: $(READY)  ## kill the pipeline twenty times at random moments (half an hour)
	python -m pytest -n 0 -s -m chaos tests $(ARGS)

lint: $(READY)  ## check the style: ruff
	ruff check

clean:  ## remove caches of Python and of the tools
	rm -rf .pytest_cache .ruff_cache .hypothesis build dist
	find dsrg stages tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

clean-env:  ## remove .venv
	rm -rf $(VENV)

# The constraints reach the isolated builds too: older pips read PIP_CONSTRAINT there, newer ones PIP_BUILD_CONSTRAINT;
# the oldest isolate only when told to. pydensecrf: have its C++ written anew by the pinned Cython, with a header for
# Python 3.13 included first (found through CPATH, because CPPFLAGS cannot hold a path with spaces).
$(READY): export PIP_CONSTRAINT := constraints.txt
$(READY): export PIP_BUILD_CONSTRAINT := constraints.txt
$(READY): export PIP_USE_PEP517 := 1
$(READY): export PIP_DISABLE_PIP_VERSION_CHECK := 1
$(READY): export CYTHON_FORCE_REGEN := 1
$(READY): export CPATH := $(CURDIR)/.ci$(if $(CPATH),:$(CPATH))
$(READY): export CPPFLAGS := -include pydensecrf_python313.h $(CPPFLAGS)
$(READY): setup.cfg pyproject.toml constraints.txt Makefile .ci/preflight.sh .ci/pydensecrf_python313.h
	@python=$$($(SHELL) .ci/preflight.sh $(PYTHON)) && \
	  { $(VENV)/bin/python -c '' 2>/dev/null || "$$python" -m venv --clear $(VENV); }
	$(VENV)/bin/python -m pip install --editable '.[test,export,timm]'
	@$(VENV)/bin/python -c 'import cv2, pydensecrf.densecrf'
	@touch $@
