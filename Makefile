# What people and CI run; `make help` lists it.

PYTHON ?= python3
# Processes that the tests run in.
TEST_PROCESSES ?= 2
# Length of a soak, which has half of that more without killings.
SOAK_SECONDS ?= 600
SOAK_WORKERS ?= 1
# More arguments for pytest, for example ARGS='-k wire -x'.
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# The generator needs protobuf below 6, which the project does not: an environment of its own.
STUBS_VENV := .venv-stubs
GRPCIO_TOOLS := 1.71.2
STUBS := client/pellucid/v1
# The longest first. What is checked side by side says what it found in one piece, where make can do that.
CHECKS := types stubs-check lint contracts schema
SIDE_BY_SIDE := --no-print-directory -j 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
DEMO_MODELS := models/.written models/efficientnet-lite0 models/breast-cancer models/diabetes

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# To pin newer versions: install without constraints.txt in an environment of its own, run
# scripts/constraints.py there, and commit what it prints.
.PHONY: help demo demo-models test deploy-check check lint types contracts schema stubs stubs-check format benchmarks quality soak docs clean distclean

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Threads that spin while they wait would take the cores from the processes beside them.
export OMP_WAIT_POLICY := PASSIVE

help: ## Say what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo-installed models/.written ## Serve real models, have predictions explained, and stop again.
	@$(BIN)/python -m demo.run --models models --out demo-output

demo-models: models/.written ## Write the demo model repository to models/.

# Some hundred processes start in the tests: they share the compiled modules, whatever the shell says of bytecode.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.test-installed ## Install, check and test everything.
	@$(MAKE) $(SIDE_BY_SIDE) $(CHECKS) models/.written
	@echo "== Tests, in $(TEST_PROCESSES) processes"
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

# The container engine and other tools are found on the path, or installed.
deploy-check: export PYTHONDONTWRITEBYTECODE :=
deploy-check: export PATH := $(CURDIR)/$(BIN):$(PATH)
deploy-check: $(VENV)/.deploy-installed models/.written ## Check what operators use with their own tools; as root, for minutes.
	@status=0; scripts/deploy_tools.sh || status=$$?; \
	case $$status in \
		0) echo "== Checks with operators' tools, in $(TEST_PROCESSES) processes"; \
			OMP_NUM_THREADS=1 $(BIN)/pytest -m deploy tests/deploy -n $(TEST_PROCESSES) --dist loadfile \
				--no-loadscope-reorder --max-worker-restart 0 $(ARGS);; \
		10) ;; \
		*) exit $$status;; \
	esac

check: $(VENV)/.test-installed ## Check all but the tests: lint, types, imports, schema, stubs.
	@$(MAKE) $(SIDE_BY_SIDE) $(CHECKS)

lint: $(VENV)/.test-installed
	@echo "== Lint and format"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(VENV)/.test-installed
	@echo "== Types"
	@$(BIN)/mypy -p pellucid -p pellucid_server -p demo -p soak

contracts: $(VENV)/.test-installed
	@echo "== Import contracts"
	@$(BIN)/lint-imports

schema: $(VENV)/.test-installed
	@echo "== Schema"
	@cd proto && ../$(BIN)/buf lint
	@echo "clean"

stubs: $(STUBS_VENV)/.grpcio-tools-$(GRPCIO_TOOLS) ## Write the Python stubs for proto/ again.
	@PYTHON=$(STUBS_VENV)/bin/python scripts/generate_stubs.sh client server

# The generator's version has no wheel for Python 3.14 and newer, and takes a compiler many minutes there.
stubs-check: $(BIN)/python
	@echo "== Stubs against the schema"
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 14))'; then \
		echo "NOT compared: grpcio-tools $(GRPCIO_TOOLS) has no wheel for this Python; 3.11 to 3.13 have one"; \
	else \
		$(MAKE) --silent $(STUBS_VENV)/.grpcio-tools-$(GRPCIO_TOOLS); \
		rm -rf build/stubs && mkdir -p build/stubs; \
		PYTHON=$(STUBS_VENV)/bin/python scripts/generate_stubs.sh build/stubs build/stubs; \
		diff -r --exclude=__pycache__ --exclude=__init__.py build/stubs/pellucid/v1 $(STUBS) \
			&& diff build/stubs/pellucid_server/open_inference_pb2.py server/pellucid_server/open_inference_pb2.py \
			|| { echo "The stubs are not the schema's: run 'make stubs' and commit." >&2; exit 1; }; \
		echo "the same"; \
	fi

format: $(VENV)/.test-installed ## Format the code, and mend what the linter can.
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

benchmarks: $(VENV)/.test-installed models/.written ## Measure the claims of speed; takes minutes.
	@echo "== Integrated gradients on the ImageNet network, against a bare loop"
	@$(BIN)/python -m benchmarks.image --models models
	@echo "== The table model, against a bare echo"
	@$(BIN)/python -m benchmarks.tabular --models models

	@echo "== Predictions beside explanations, against quiet ones"
	@$(BIN)/python -m benchmarks.priority --models models
	@echo "== From a caller's leaving to an idle device"
	@$(BIN)/python -m benchmarks.cancel --models models
	@echo "== Four times the sustainable load, against the knee"
	@$(BIN)/python -m benchmarks.overload --models models
	@echo "== A killed worker, as callers see it"
	@$(BIN)/python -m benchmarks.outage --models models
	@echo "== Health checks beside requests of 58 MB"
	@$(BIN)/python -m benchmarks.large
	@echo "== What metrics cost a prediction"
	@$(BIN)/python -m benchmarks.metrics
	@echo "== Network dissection, against a plain one in two passes"
	@$(BIN)/python -m benchmarks.dissection --models models

quality: $(VENV)/.test-installed models/.written ## Dissect a trained and an untrained network on composites of photographs.
	@$(BIN)/python -m benchmarks.quality --models models

soak: $(VENV)/.test-installed models/.written ## Load the server for SOAK_SECONDS, kill workers and callers, judge all answers.
	@$(BIN)/python -m soak --models models --seconds $(SOAK_SECONDS) --workers $(SOAK_WORKERS)

docs: $(VENV)/.docs-installed ## Write the documentation as a site to build/docs; every link in it must lead somewhere.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean: ## Remove what was written here, but for the virtual environments.
	rm -rf build dist demo-output $(DEMO_MODELS) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

distclean: clean ## Remove the virtual environments as well.
	rm -rf $(VENV) $(STUBS_VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
			"Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "== Making the virtual environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "No virtual environment could be made; on Debian and Ubuntu, install python3-venv." >&2; exit 1; }

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== Installing the server and the demo (the first time: a few minutes, most of them for torch)"
	@$(BIN)/python -m pip install -c constraints.txt -e ".[server,cli,demo]"
	@touch $@

$(VENV)/.test-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== Installing everything that the tests need (the first time: a few minutes, most of them for torch)"
	@$(BIN)/python -m pip install -c constraints.txt -e ".[server,cli,demo,test,check]"
	@touch $@ $(VENV)/.demo-installed

$(VENV)/.deploy-installed: pyproject.toml constraints.txt | $(VENV)/.test-installed
	@echo "== Installing what the checks with operators' tools need"
	@$(BIN)/python -m pip install -c constraints.txt -e ".[server,cli,demo,test,check,deploy-check]"
	@touch $@ $(VENV)/.test-installed $(VENV)/.demo-installed $(VENV)/.docs-installed

$(VENV)/.docs-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== Installing what the documentation's site needs"
	@$(BIN)/python -m pip install -c constraints.txt -e ".[docs]"
	@touch $@

$(STUBS_VENV)/.grpcio-tools-$(GRPCIO_TOOLS): | $(BIN)/python
	@echo "== Installing the stub generator, grpcio-tools $(GRPCIO_TOOLS)"
	@rm -rf $(STUBS_VENV) && $(BIN)/python -m venv $(STUBS_VENV)
	@$(STUBS_VENV)/bin/python -m pip install "grpcio-tools==$(GRPCIO_TOOLS)"
	@touch $@

models/.written: demo/models.py server/pellucid_server/export.py | $(VENV)/.demo-installed
	@echo "== Writing the demo model repository to models/"
	@$(BIN)/python -m demo.models models
	@touch $@
