# The system's Python, used once to make .venv; 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
ENVIRONMENT := $(VENV)/.complete
PACKAGES := backend worker pixellm_model label_config

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick lint format bench clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(ENVIRONMENT) ## Start everything, prove it with one prompt, stay up until Ctrl-C (ARGS=--once: stop then)
	@$(BIN)/python -m demo $(ARGS)

test: $(ENVIRONMENT) ## Run all tests, those in a browser included (ARGS="-k name": some)
	@$(BIN)/python -m demo.system
	@$(BIN)/python -m pytest $(ARGS)

test-quick: $(ENVIRONMENT) ## Run unit tests and docstring examples; no Redis, worker, database or browser (ARGS as above)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit $(PACKAGES) -m "not slow" $(ARGS)

lint: $(ENVIRONMENT) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(ENVIRONMENT) ## Put the code into its style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(ENVIRONMENT) ## Run the benchmarks that need no photos and print their tables
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove caches, the demo's data and test artifacts
	rm -rf .demo artifacts build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## Remove the environments too
	rm -rf .venv .venv-label-studio .venv-label-studio-ml .venv*.log *.egg-info

$(ENVIRONMENT): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "demo: Python 3.11 or newer is needed." >&2; exit 1; }
	@$(PYTHON) -m demo.environment
