# The commands of the project. `demo` and `test` do all the set-up that they need, on a bare machine too.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
TOOLS := $(VENV)/.test-tools
PEERS := $(VENV)/.bench-peers

.PHONY: demo test test-docker lint format bench bench-many bench-trainer fuzz setup generate screenshots labelled-runs accuracy clean
.DEFAULT_GOAL := demo

## The main job without Docker: one fine-tuning, watched. INJECT=loss_rising for a fault, HOLD=1 to look around after.
demo: setup
	@exec $(BIN)/trading-llm demo $(if $(INJECT),--inject $(INJECT)) $(if $(HOLD),--hold)

## All tests, on real servers.
test: setup $(TOOLS)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

## Those of `docker compose up` on a real engine only: docs/docker.md.
test-docker: setup $(TOOLS)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest tests/compose

## Style, types, generated files, known vulnerabilities.
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m training_exporter.reference --check docs/metrics.md
	$(BIN)/python grafana/generate.py --check
	$(BIN)/python .ci/audit

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## What is generated from the one table of families and from the dashboards' code.
generate: setup
	$(BIN)/python -m training_exporter.reference docs/metrics.md
	$(BIN)/python grafana/generate.py

## Pictures of the dashboards from real runs, into docs/images. PREVIEW=DIR: a set up dashboard-preview; FRESH=1: new runs.
screenshots: setup
	$(BIN)/python tests/grafana/screenshots.py $(if $(FRESH),--fresh)

## What watching costs, beside other loggers, in one run: ONLY=step,scrape for some of the questions, QUICK=1 for a try.
bench: setup $(PEERS)
	$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)

## One Prometheus with all rules beside RUNS simulated runs; HOURS=24 for the past that the longest rule reads.
bench-many: setup
	$(BIN)/python -m tests.bench.many_runs --runs $(or $(RUNS),1000) $(if $(HOURS),--hours $(HOURS))

## The trainer's tokens/s and peak memory beside the plain Hugging Face way.
bench-trainer: setup
	$(BIN)/python -m tests.bench.trainer

## A fuzzer over all readers, a minute each: SECONDS_EACH=600 for longer.
fuzz: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group fuzz
	$(BIN)/python tests/faults/fuzz.py

## Real trainings with labels, healthy and faulty, in .accuracy/runs: ROUNDS=1 for half of them, SEED=2 for others.
labelled-runs: setup
	$(BIN)/python tests/accuracy/labelled_runs.py $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED))

## How often the alerts are right, on all labelled runs that are there: docs/accuracy.md. CHECK=1 only compares.
accuracy: setup
	$(BIN)/python tests/accuracy/accuracy_report.py $(if $(CHECK),--check)

## .venv with all console scripts, and Prometheus and Alertmanager where they are missing.
setup: $(STAMP)

$(STAMP): pyproject.toml .ci/constraints.txt .ci/setup
	@PYTHON=$(PYTHON) .ci/setup $(VENV)
	@touch $@

# The loggers that `make bench` compares with.
$(PEERS): pyproject.toml .ci/constraints.txt | $(STAMP)
	@.ci/setup $(VENV) bench
	@touch $@

# Docker with Compose, and Prometheus 3, where they can be had: the tests skip what they lack.
$(TOOLS): .ci/install-test-tools | $(STAMP)
	@.ci/install-test-tools $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) .demo .screenshots .pytest_cache .mypy_cache .ruff_cache
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/training-exporter/docker"
