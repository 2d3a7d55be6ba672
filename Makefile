# The commands of the README; plain `make` lists them.
#   PYTHON=/path/to/python3   the interpreter that .venv is made from (3.11 to 3.13)
#   TORCH_INDEX=...           torch and torchvision from this index or folder, without the CUDA packages
#   ARGS="..."                arguments for the command
PYTHON ?= python3
export PYTHON
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help setup demo test lint docs bench chaos up down

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv from requirements.lock (the other targets run this first)
	@sh scripts/setup.sh

demo: setup ## train a teacher, distill, evaluate and register (about 20 minutes)
	@.venv/bin/python -m flows.distill $(ARGS)

up: setup ## start Prefect, MLflow and the deployments in the background; PREFECT_PORT, MLFLOW_PORT
	@.venv/bin/python -m flows.services up

down: ## stop what `make up` started
	@if [ -x .venv/bin/python ]; then .venv/bin/python -m flows.services down; fi

test: setup ## run the tests that are not slow; ARGS="-m slow" runs the slow ones
	@.venv/bin/python -m pytest -n 2 --dist loadscope $(ARGS)

lint: setup ## run ruff and basedpyright
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/basedpyright

docs: setup ## build the documentation site into site/; a warning is an error, and no network is needed
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet
	@echo "docs: open site/index.html in a browser"

bench: setup ## measure turns, stages, images and the flow (two hours, on an idle machine); writes records/
	@.venv/bin/python -m benchmarks.speed
	@for name in turns roofline sharing linear memory scaling generation logging_share flow_cost processes; do \
		echo "bench: $$name" && .venv/bin/python -m benchmarks.$$name >/dev/null || exit 1; done
	@.venv/bin/python scripts/docs_tables.py

chaos: setup ## damaged inputs and interrupted runs: 1,000 inputs, then 60 kills and other faults (hours; disks need root)
	@.venv/bin/python -m benchmarks.fuzz
	@.venv/bin/python -m benchmarks.chaos
