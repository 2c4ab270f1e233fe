# Every target works from a bare checkout: it makes .venv and installs what requirements.lock pins, once.
#
#   PYTHON     the interpreter .venv is made with; default: the first of python3, python3.13, 3.12, 3.11 that is new enough
#   PIP_ARGS   more arguments for pip. On Linux, PyPI's torch brings gigabytes of CUDA libraries; without a GPU:
#              make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#   PROCESSES  that run tests, or check types, at once; default 2. mypy gives up on a process that takes 3 s to start, as
#              it may on a machine that is busy with other work: make check PROCESSES=0
#   ARGS       arguments for the command that a target runs: make test ARGS="-k store"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(shell \
	$(python) -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $(python))))
PIP_ARGS ?=
PROCESSES ?= 2
ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := gn worker service tests
JAVASCRIPT := service/dashboard/static

.PHONY: help install demo up test test-containers test-network test-mlflow test-readme test-campaign check format bench screenshots openapi lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv and install everything into it

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "normlab needs Python 3.11 or newer, and none was found: install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo "normlab needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version)"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv || { echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }
	@echo "Installing what requirements.lock pins into .venv (minutes, the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps --editable .
	@$(BIN)/python -m gn.cpu || true # without a compiler everything works, slower
	@touch $@

demo: $(INSTALLED) ## train BatchNorm and GroupNorm at batch sizes 2 and 32, a few minutes on 2 cores
	@$(BIN)/normlab demo $(ARGS)

up: $(INSTALLED) ## start the service on this machine
	@$(BIN)/normlab up $(ARGS)

test: $(INSTALLED) ## run the tests
	@$(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --no-loadscope-reorder $(ARGS)

test-containers: $(INSTALLED) ## build the images and hurt every container, with Docker or podman-compose
	@$(BIN)/python -m pytest -m containers tests/acceptance/test_compose.py $(ARGS)

test-network: $(INSTALLED) ## cut a machine off from the network and plug it in again, as root on Linux
	@$(BIN)/python -m pytest -m netns tests/acceptance/test_network.py $(ARGS)

# MLflow's server wants other versions than requirements.lock has, so it gets an environment of its own.
.venv-mlflow/bin/mlflow: $(INSTALLED)
	@$(PYTHON) -m venv --clear .venv-mlflow
	@.venv-mlflow/bin/python -m pip install --quiet --disable-pip-version-check "mlflow==$$($(BIN)/python -c \
		'from importlib.metadata import version; print(version("mlflow-skinny"))')"

test-mlflow: .venv-mlflow/bin/mlflow ## export to a real MLflow server
	@$(BIN)/python -m pytest -m mlflow tests/unit/service/export $(ARGS)

test-readme: $(INSTALLED) ## run the commands of the README
	@$(BIN)/python -m pytest -m readme tests/acceptance/test_readme.py $(ARGS)

test-campaign: $(INSTALLED) ## minutes of kills and freezes at random; NORMLAB_CAMPAIGN_S and NORMLAB_CAMPAIGN_SEED
	@$(BIN)/python -m pytest -m campaign tests/acceptance/test_campaign.py $(ARGS)

check: $(INSTALLED) ## lint and formatting of Python and JavaScript, and the types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/oxlint --deny-warnings $(JAVASCRIPT)
	$(BIN)/oxfmt --check $(JAVASCRIPT)
	$(BIN)/mypy --num-workers=$(PROCESSES)

format: $(INSTALLED) ## format Python and JavaScript, and mend what the linters can
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/oxlint --fix $(JAVASCRIPT)
	$(BIN)/oxfmt $(JAVASCRIPT)

bench: $(INSTALLED) ## measure what the README claims of speed
	@set -e; for benchmark in tests/benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark $(ARGS); done

screenshots: $(INSTALLED) ## take pictures of the dashboard of the service that runs, for the README
	@$(BIN)/python -m tests.dashboard.screenshots $(ARGS)

openapi: $(INSTALLED) ## write service/api/openapi.json from the code
	@$(BIN)/python -m service.openapi $(ARGS)

# The pins hold for Linux and macOS alike: packages that only one of them needs, as CUDA's, are left to torch's own pins.
lock: ## pin the newest versions that pyproject.toml allows, torch at 2.13.0
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder/venv"; \
	"$$folder/venv/bin/pip" install --quiet --upgrade "pip>=25.1"; \
	"$$folder/venv/bin/pip" install $(PIP_ARGS) --quiet --dry-run --ignore-installed --report "$$folder/report.json" \
		".[all]" --group dev torch==2.13.0; \
	"$$folder/venv/bin/python" -c 'import json, re, sys; \
	names = {p["metadata"]["name"].lower(): p["metadata"]["version"].split("+")[0] for p in json.load(open(sys.argv[1]))["install"]}; \
	own = re.compile("normlab|nvidia-|cuda-|triton"); \
	print("# Written by `make lock`. Images take it as constraints: pip install --constraint requirements.lock .", \
	*(f"{name}=={version}" for name, version in sorted(names.items()) if not own.match(name)), sep="\n")' \
		"$$folder/report.json" > requirements.lock

clean: ## remove .venv and everything that tools leave behind
	rm -rf .venv .venv-mlflow .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info benchmark-results
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
