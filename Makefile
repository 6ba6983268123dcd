# The commands: `make demo`, `make test`, `make test-long`. All make .venv once and reuse it.
PYTHON ?= python3
BIN := .venv/bin

.NOTPARALLEL:
.PHONY: demo test test-long check clean

demo: .venv/all.stamp  ## compare the methods on real digits; the table, page and picture of the README
	$(BIN)/gmixout compare --out runs/demo $(if $(wildcard runs/demo/config.yaml),--overwrite)

test: .venv/dev.stamp demo check  ## the demo, then linters, types and the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-long: .venv/dev.stamp  ## the tests that take minutes
	$(BIN)/python -m pytest -m long

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs

.venv/%.stamp: pyproject.toml
	# modules are compiled when they are first imported: all of torch's would take a minute and a half
	@echo "Installing into .venv; torch and what it brings take about 5.5 GB and a few minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile --editable '.[$*]'
	@touch .venv/all.stamp $@
