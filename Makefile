# One command per need. Every target works in a fresh clone with python3.11, pip and make, and nothing else.
PYTHON ?= python3.11
SEEDS ?= 300
SEED ?= 1
ROUNDS ?= 10
# "-n 2 --dist loadfile" spreads the tests over two processes, file by file, because tests of a file share a cluster, and
# in the order of tests/conftest.py; those of the structure are part of "check".
# "make test PYTEST_ARGS='-x tests/state'" runs a part.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/structure

VENV := .venv
BIN := $(VENV)/bin
# What is installed depends on pyproject.toml and on where this clone lies (editable installs hold absolute paths).
KEY := $(shell (pwd; cat pyproject.toml) | cksum | cut -d ' ' -f 1)
RUN := $(VENV)/.installed-run-$(KEY)
DEV := $(VENV)/.installed-dev-$(KEY)
BENCH := $(VENV)/.installed-bench-$(KEY)
NEW_PIP := $(VENV)/.pip
TYPING := .cache/typing/penstock
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

.PHONY: demo test check types structure bench simulate chaos matrix long soak golden clean

demo: $(RUN)
	$(BIN)/python examples/$(if $(LOCAL),demo_local.py,demo.py)

test: check
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Types and structure side by side.
check: $(DEV) $(TYPING)
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory -j 2 types structure

types: $(DEV) $(TYPING)
	$(BIN)/mypy -p penstock
	MYPYPATH=examples:benchmarks $(BIN)/mypy --explicit-package-bases examples benchmarks

structure: $(DEV)
	$(BIN)/python -m pytest -q tests/structure

bench: $(BENCH)
	@set -e; for benchmark in benchmarks/*.py; do $(BIN)/python "$$benchmark"; done

simulate: $(RUN)
	$(BIN)/python -m penstock.testing.simulation --seeds $(SEEDS)

# Faults at random on a real cluster, from a seed.
chaos: $(DEV)
	SEED=$(SEED) ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -m chaos -s tests/cluster/failures

# State backend, alignment, and what happens to a job (killed processes, another parallelism): all combinations, on a
# real cluster.
matrix: $(DEV)
	$(BIN)/python -m pytest -m '' tests/cluster/failures/test_matrix.py

# Thirteen jobs one after the other, a store that is gone while processes die, a year of flights.
long: $(DEV)
	$(BIN)/python -m pytest -m long

# Fifty jobs one after the other on one cluster: nothing grows. A thousand checkpoints with failures: nothing is left.
# A store that refuses for a minute.
soak: $(DEV)
	SUBMISSIONS=50 $(BIN)/python -m pytest -m long tests/cluster/submissions/test_many_submissions.py
	CHECKPOINTS=1000 $(BIN)/python -m pytest tests/pipelines/test_no_orphans.py tests/simulation/test_many_checkpoints.py
	REFUSED_S=60 $(BIN)/python -m pytest tests/pipelines/test_failing_store.py

# What this version leaves in a store, for later ones to restore; as long as it is not released (tests/golden).
golden: $(DEV)
	GOLDEN=1 $(BIN)/python -m pytest -q tests/golden -k made
	$(BIN)/python -m pytest -q tests/golden

clean:
	rm -rf $(VENV) .cache .penstock .hypothesis .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Dependency groups (PEP 735) need pip 25.1, and Python 3.11 brings an older one.
$(NEW_PIP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(RUN): $(NEW_PIP)
	$(PIP) install --editable '.[examples]'
	@touch $@

$(DEV): $(RUN)
	$(PIP) install --group test --group check
	@touch $@

$(BENCH): $(RUN)
	$(PIP) install --group bench
	@touch $@

$(TYPING):
	@mkdir -p $(@D)
	ln -sfn ../.. $@
