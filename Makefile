# Every target works in a fresh checkout: if needed, it creates .venv and installs the versions of requirements.lock.
#
#   PYTHON     the interpreter of .venv; default: the first of python3, python3.13, 3.12, 3.11 that is at least 3.11
#   PIP_ARGS   further arguments for pip. On Linux, PyPI's torch depends on gigabytes of CUDA libraries; without a GPU use
#              make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#   PROCESSES  the number of cores to use; default 2. pytest has twice as many processes. mypy fails if a process takes
#              more than 3 s to start, which can happen on a busy machine: make check PROCESSES=0
#   ARGS       arguments for the command of the target: make test ARGS="-k store"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(shell \
	$(python) -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $(python))))
PIP_ARGS ?=
PROCESSES ?= 2
# Half of the time the tests wait: for other processes, for a browser, for the ends of time limits.
TEST_PROCESSES = $(shell expr 2 \* $(PROCESSES))
ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := gn worker service normlab tests
JAVASCRIPT := service/dashboard/static

.PHONY: help install demo up test test-faults test-gpu test-containers test-network test-mlflow test-readme test-campaign test-reliability check format bench screenshots openapi lock audit clean

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv and install all dependencies

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "normlab needs Python 3.11 or newer, and none was found. Install one, or give its path: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo "normlab needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version)"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv || { echo "$(PYTHON) cannot create a virtual environment: install its venv module (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }
	@echo "Installing the versions of requirements.lock into .venv (the first time takes minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps --editable .
	@$(BIN)/python -m gn.cpu || true # without a compiler gn falls back to torch, which is slower
	@touch $@

demo: $(INSTALLED) ## train BatchNorm and GroupNorm at batch sizes 2 and 32 (a few minutes on 2 cores)
	@$(BIN)/normlab demo $(ARGS)

up: $(INSTALLED) ## start the service on this machine
	@$(BIN)/normlab up $(ARGS)

test: $(INSTALLED) ## run the unit, integration, acceptance and dashboard tests
	@$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --no-loadscope-reorder $(ARGS)

test-faults: $(INSTALLED) ## kill and freeze processes under running jobs (several minutes)
	@$(BIN)/python -m pytest -m faults --numprocesses=$(TEST_PROCESSES) --dist=loadfile $(ARGS)

# It needs torch with Triton, NumPy, pytest, pydantic and safetensors alone: without .venv, those of PYTHON.
test-gpu: ## test and measure on a GPU, in less than ten minutes, and print a table for gn/README.md
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m tests.gpu $(ARGS)

test-containers: $(INSTALLED) ## build the images, then stop and kill each container under running jobs (Docker or podman-compose)
	@$(BIN)/python -m pytest -m containers tests/acceptance/test_compose.py $(ARGS)

test-network: $(INSTALLED) ## disconnect a machine from the network under running jobs (as root, on Linux)
	@$(BIN)/python -m pytest -m netns tests/acceptance/test_network.py $(ARGS)

# MLflow's server needs other versions than requirements.lock, so it is installed into a separate environment.
.venv-mlflow/bin/mlflow: $(INSTALLED)
	@$(PYTHON) -m venv --clear .venv-mlflow
	@.venv-mlflow/bin/python -m pip install --quiet --disable-pip-version-check "mlflow==$$($(BIN)/python -c \
		'from importlib.metadata import version; print(version("mlflow-skinny"))')"

test-mlflow: .venv-mlflow/bin/mlflow ## test the export to a real MLflow server
	@$(BIN)/python -m pytest -m mlflow tests/unit/service/export $(ARGS)

test-readme: $(INSTALLED) ## run the commands of the documentation against a real service
	@$(BIN)/python -m pytest -m readme tests/acceptance/test_readme.py $(ARGS)

test-campaign: $(INSTALLED) ## kill and freeze processes at random, for minutes (NORMLAB_CAMPAIGN_S, NORMLAB_CAMPAIGN_SEED)
	@$(BIN)/python -m pytest -m campaign tests/acceptance/test_campaign.py $(ARGS)

test-reliability: $(INSTALLED) ## kill, freeze, flood and soak the service, and print tables of what it survived (long)
	@$(BIN)/python -m tests.reliability $(ARGS)

check: $(INSTALLED) ## check formatting, lint and types of Python and JavaScript
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/oxlint --deny-warnings $(JAVASCRIPT)
	$(BIN)/oxfmt --check $(JAVASCRIPT)
	$(BIN)/mypy --num-workers=$(PROCESSES)

format: $(INSTALLED) ## format Python and JavaScript, and apply automatic fixes of the linters
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/oxlint --fix $(JAVASCRIPT)
	$(BIN)/oxfmt $(JAVASCRIPT)

bench: $(INSTALLED) ## run all benchmarks of tests/benchmarks
	@set -e; for benchmark in tests/benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark $(ARGS); done

screenshots: $(INSTALLED) ## take the screenshots of the documentation from a running service
	@$(BIN)/python -m tests.dashboard.screenshots $(ARGS)

openapi: $(INSTALLED) ## generate service/api/openapi.json from the code
	@$(BIN)/python -m service.openapi $(ARGS)

# The lock must work on Linux and macOS, so platform-specific packages such as CUDA's are left to torch's own requirements.
lock: ## update requirements.lock to the newest versions that pyproject.toml allows (torch stays at 2.13.0)
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder/venv"; \
	"$$folder/venv/bin/pip" install --quiet --upgrade "pip>=25.1"; \
	"$$folder/venv/bin/pip" install $(PIP_ARGS) --quiet --dry-run --ignore-installed --report "$$folder/report.json" \
		".[all]" --group dev torch==2.13.0; \
	"$$folder/venv/bin/python" -c 'import json, re, sys; \
	names = {p["metadata"]["name"].lower(): p["metadata"]["version"].split("+")[0] for p in json.load(open(sys.argv[1]))["install"]}; \
	own = re.compile("normlab|nvidia-|cuda-|triton"); \
	print("# Generated by `make lock`. The images use it as constraints: pip install --constraint requirements.lock .", \
	*(f"{name}=={version}" for name, version in sorted(names.items()) if not own.match(name)), sep="\n")' \
		"$$folder/report.json" > requirements.lock

# pip-audit needs other versions than requirements.lock, so it is installed into a separate environment.
.venv-audit/bin/pip-audit:
	@test -n "$(PYTHON)" || { echo "make audit needs Python 3.11 or newer, and none was found"; exit 1; }
	@$(PYTHON) -m venv --clear .venv-audit
	@.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit

audit: .venv-audit/bin/pip-audit ## list known vulnerabilities of the versions in requirements.lock, as PyPI publishes them
	@.venv-audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip $(ARGS)

clean: ## remove .venv, caches and build outputs
	rm -rf .venv .venv-audit .venv-mlflow .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info benchmark-results
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
