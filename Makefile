# make bench    set up .venv, run the quick suite, print its cards and name its page
# make check    while you work: lint, types, and the tests of what has changed (under two minutes)
# make test     all tests (under 20 minutes on 2 cores)
# make faults   what tests of faults do, at length: kill -9, hanging workers, a full disk, Slurm (half an hour)
# make reference  a random sample of the shipped results, computed again (a few minutes)
# make speed    the speed benchmark: JSON on stdout, a table on stderr (about eight minutes)
# make scale    a suite of 20 000 tiny cells: what the harness itself takes (about ten minutes)
# make lint     ruff and mypy
# make docs     the documentation site, in .docs/html
# make clean    remove what the other targets made, results excepted
#
# PYTHON=/path/to/python chooses the interpreter for .venv (3.11 or newer).

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ADAPTERS := $(VENV)/.adapters
RESULTS ?= results/quick

# The first of these that runs, is new enough and can make an environment. Recursive on
# purpose: looked for only when .venv has to be made.
CANDIDATES := python3.13 python3.12 python3.11 python3 python
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c '$(SUITABLE)' 2>/dev/null && echo $$p && break; done)

.PHONY: bench check test reference speed scale faults lint docs clean
.DEFAULT_GOAL := bench

bench: $(READY)
	@$(BIN)/shaping-bench run quick -o $(RESULTS)
	@echo "upload: $(BIN)/wandb login; $(BIN)/shaping-bench upload $(RESULTS)  (to your own; numbers: cells/*/*.parquet)"

# One process more than cores: tests of clusters and of killed processes wait more than they compute. A file stays
# with one process: what its tests share is made once.
test: $(READY) $(ADAPTERS)
	$(BIN)/python -m pytest -q -n 3 --dist loadfile

# Of the tests of what has changed, as many as there is time for.
check: $(READY)
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy
	$(BIN)/python -m pytest -q -x -n 2 --dist worksteal --for 60 $$($(BIN)/python .ci/changed.py)

# Which cells is a matter of the day, so that every one has its turn.
reference: $(READY)
	@$(BIN)/shaping-bench reference --check --cells 12 --seconds 60 --seed $$(date -u +%Y%m%d)

speed: $(READY)
	@$(BIN)/python -m shaping_bench.speed

scale: $(READY)
	@$(BIN)/python -m shaping_bench.speed.scale

faults: $(READY)
	@PYTHONPATH=. $(BIN)/python .ci/faults.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m sphinx -q -n -W --keep-going -d .docs/doctrees shaping_bench/docs .docs/html
	@echo "Documentation: .docs/html/index.html"

# The stamp depends on what is installed, so a changed dependency is installed by the next
# make, and an interrupted set-up is taken up again. All its output goes to stderr.
$(READY): pyproject.toml constraints.txt
	@$(if $(strip $(PYTHON)),true,echo "shaping-bench: no Python 3.11 or newer that can make environments among: $(CANDIDATES)." \
	    "Install one, or name it: make PYTHON=/path/to/python" >&2; exit 2)
	@$(PYTHON) -c '$(SUITABLE)' || { echo "shaping-bench: PYTHON=$(PYTHON) is not a Python 3.11 or newer with venv and ensurepip." >&2; exit 2; }
	@echo "Setting up $(VENV) with $(PYTHON) (a minute or two) ..." >&2
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]" >&2
	@touch $@

# Other people's packages, which only the tests of the adapters need: without them those are skipped.
$(ADAPTERS): .ci/no-deps.txt $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r $< >&2 && touch $@ \
	    || echo "shaping-bench: $< could not be installed; the tests of the adapters are left out." >&2

clean:
	rm -rf $(VENV) build dist *.egg-info .package/*.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache .docs
	find games algorithms shaping_bench tests -name __pycache__ -type d -prune -exec rm -rf {} +
