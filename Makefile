# Everything runs in .venv, made from constraints.txt; nothing else on the machine is touched
# but the user cache (TORCHOPT2EDGE_CACHE), where the sealed converter and the store live.
PYTHON ?= python3
BIN := .venv/bin
SUITE ?= digits

.DEFAULT_GOAL := help
.PHONY: help setup demo quick test no-vnni zoo cores check architecture bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/' | expand -t 10

setup: .venv/ready ## make .venv and the sealed converter environment

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/torchopt2edge converter install
	touch $@

demo: setup ## the full pipeline on scanned digits, with a verdict
	$(BIN)/torchopt2edge optimize experiment=digits

# One thread per worker: two processes that spin on two cores stop each other.
quick: setup ## what needs no converter, device, browser or training: a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --quick -n 2 --dist worksteal

test: setup ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not zoo' -n 2 --dist loadfile --durations=20

no-vnni: setup ## the tests of integer files as if this x86 processor had no VNNI (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.without_vnni $(BIN)/python -m pytest -q \
	    tests/backends tests/quantize tests/test_compare.py

zoo: setup ## every zoo model through every backend (minutes)
	$(BIN)/python -m pytest -m zoo

cores: setup ## the board's tests on every emulated ARM core (minutes)
	TORCHOPT2EDGE_TEST_CORES=all $(BIN)/python -m pytest tests/devices/test_board.py

check: setup ## lint, format, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

architecture: setup ## draw the layers in docs/architecture.md
	$(BIN)/python -m tests.test_architecture

bench: setup ## run one suite of benchmarks/: make bench SUITE=name
	$(BIN)/python -m benchmarks.$(SUITE) $(ARGS)

clean: ## remove .venv and what runs left here; the user cache stays
	rm -rf .venv outputs build *.egg-info .mypy_cache .ruff_cache .pytest_cache
