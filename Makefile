# A checkout needs Python 3.11 or newer, make and a package registry; everything lands in .venv.
#
#   make demo    install imlctl and analyse the example
#   make test    install what tests need and run them on all cores; ARGS goes to pytest, as in
#                make test ARGS="-x -k mask"; WORKERS=0 runs them in one process, for a debugger
#   make check   lint, format and types
#   make fuzz    look for files that break the decoder, for ten minutes; SECONDS changes that
#   make clean   remove .venv, caches and what the demo wrote
#
# PYTHON picks the interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
ARGS ?=
WORKERS ?= logical
SECONDS ?= 600
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test check fuzz clean
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/imlctl localize --example -o out/mask.png --overlay --force
	@echo
	@echo 'Open out/mask.overlay.png: the space shuttle on the right was pasted in.'
	@echo 'Compare out/mask.png with the truth, examples/launchpad_mask.png.'

test: .venv/installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile $(ARGS)

check: .venv/installed-check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Atheris has wheels for few systems; without it, the same target tries mutated samples.
fuzz: .venv/installed-test
	$(INSTALL) atheris || echo 'atheris cannot be installed here; doing without coverage'
	$(BIN)/python scripts/fuzz_decode.py --seconds $(SECONDS)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf out/mask.png out/mask.overlay.png out/fuzz
	rmdir out 2>/dev/null || true
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that one set of packages is in place, so that a second run installs nothing.
# pip comes first: dependency groups need 25.1, and a fresh virtual environment may hold an older one.
.venv/created:
	@command -v $(PYTHON) >/dev/null || { echo 'imlctl needs Python 3.11 or newer, and there is no $(PYTHON) here. Name one: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "imlctl needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade pip
	@touch $@

# Editable, so that the checkout is what runs: its sources, its weights.toml, its bundled weights.
.venv/installed: .venv/created pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

.venv/installed-test: .venv/installed
	$(INSTALL) --group test
	@touch $@

.venv/installed-check: .venv/installed
	$(INSTALL) --group check
	@touch $@
