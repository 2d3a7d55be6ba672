# The commands of the README; plain `make` lists them.
#   PYTHON=/path/to/python3   the interpreter that .venv is made from (3.11 to 3.13)
#   TORCH_INDEX=...           torch and torchvision from this index or folder, without the CUDA packages
#   ARGS="..."                passed on to the command
PYTHON ?= python3
export PYTHON
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help setup demo test lint docs bench up down

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv from requirements.lock (the others do it by themselves)
	@sh scripts/setup.sh

demo: setup ## teacher, distillation, evaluation, registration: the whole way (about 20 minutes)
	@.venv/bin/python -m flows.distill $(ARGS)

up: setup ## Prefect and MLflow servers and the deployments, in the background; PREFECT_PORT, MLFLOW_PORT
	@.venv/bin/python -m flows.services up

down: ## end what `make up` started
	@if [ -x .venv/bin/python ]; then .venv/bin/python -m flows.services down; fi

test: setup ## the tests that are not slow; ARGS="-m slow" for the others
	@.venv/bin/python -m pytest -n 2 --dist loadscope $(ARGS)

lint: setup ## ruff and basedpyright
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/basedpyright

docs: setup ## build the documentation site into site/; a warning is an error, and no network is needed
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet
	@echo "docs: open site/index.html in a browser"

bench: setup ## what a training turn and the flow cost, against their bare parts (some minutes, on an idle machine)
	@.venv/bin/python -m benchmarks.speed
	@.venv/bin/python -m benchmarks.flow_cost
