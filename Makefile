# Each target sets up what it needs inside .venv; nothing outside this directory is changed.
#
# The stamps record what is installed. They depend on pyproject.toml and constraints.txt, so a
# change of either installs again, and nothing else does.

VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP    := $(BIN)/python -m pip --disable-pip-version-check
PINS   := pyproject.toml constraints.txt

# The pyright wheel carries its JavaScript and Node; this stops it asking for a newer release.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# The theme announces what its authors plan next on every build; the versions are pinned.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
# Two pips must not write to one environment at a time.
.NOTPARALLEL:
# A stamp whose installation failed must not look finished.
.DELETE_ON_ERROR:

.PHONY: help demo test faults check docs bench profile clean

help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

demo: $(STAMPS)/runtime ## Compare shared memory and messages on this machine
	$(BIN)/tertulia compare --input src/tertulia/engines --html build/tertulia/compare.html

# Two at a time, each file's tests in one process: many of them wait for servers and for leases.
test: $(STAMPS)/dev ## Run the tests
	$(BIN)/pytest -n 2 --dist loadfile

# SCALE=0.1 tries a tenth of it. The limit is for one test: the longest takes a quarter of it on two cores.
faults: $(STAMPS)/dev ## Try to break it for an hour: kills, stops, clock jumps, power loss (SCALE=0.1 for less)
	TERTULIA_PROFILE=campaign TERTULIA_SCALE=$(or $(SCALE),1) $(BIN)/pytest -v -m campaign --timeout=7200 --durations=20

check: $(STAMPS)/dev ## Check style, formatting, types and the structure of the package
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/pytest -q tests/structure

docs: $(STAMPS)/docs ## Build the guide into build/site; every warning is an error
	$(BIN)/mkdocs build --strict --quiet --clean
	@echo "The guide is at build/site/index.html; it needs no server and no network."

bench: $(STAMPS)/bench ## Measure against the peers, in one run
	$(BIN)/python -m bench

profile: $(STAMPS)/dev ## Measure anew, in 12 minutes, the profile that comes with the package (on an idle machine)
	$(BIN)/python -m bench.profile

clean: ## Remove the environment, caches and builds (never a space)
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@for python in python3.11 python3; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "Creating $(VENV) with $$("$$python" --version)"; \
	        "$$python" -m venv $(VENV) && mkdir -p $(STAMPS) && touch $@; \
	        exit $$?; \
	    fi; \
	done; \
	echo "Tertulia needs Python 3.11 or newer, as python3.11 or python3 on the PATH." >&2; \
	exit 1

$(STAMPS)/runtime: $(STAMPS)/venv $(PINS)
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/venv $(PINS)
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	@touch $@ $(STAMPS)/runtime

$(STAMPS)/bench: $(STAMPS)/venv $(PINS)
	$(PIP) install -q -c constraints.txt -e ".[dev,bench]"
	@touch $@ $(STAMPS)/dev $(STAMPS)/runtime

$(STAMPS)/docs: $(STAMPS)/venv $(PINS)
	$(PIP) install -q -c constraints.txt -e ".[docs]"
	@touch $@ $(STAMPS)/runtime
