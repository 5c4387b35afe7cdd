# Shardline. `make help` lists what can be typed.
#
# Everything happens inside the checkout: .venv (Python), .airflow (Airflow's home), var (runs, data, models).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The caller's own Python and Airflow stay out of it.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONSAFEPATH PYTHONINSPECT PYTHONDONTWRITEBYTECODE VIRTUAL_ENV AIRFLOW_HOME AIRFLOW_CONFIG

PYTHON_IN_VENV := .venv/bin/python
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev

export PYTHON
export CONF ?= {}
export PORT ?= 8080
ARGS ?=
# Tests run in this many processes: three times the cores of a small machine, since tests that start programs wait.
WORKERS ?= 6

.PHONY: help demo ui test soak campaign rehearsal celery mlflow transformers lint format docs screenshots airflow lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## Train, merge, validate and promote a model, without a server; CONF='{"epochs": 2}' sets parameters
	@$(PYTHON_IN_VENV) -m scripts.demo --conf "$$CONF"

ui: $(INSTALLED) ## Airflow's user interface on 127.0.0.1, until Ctrl-C; PORT=8080
	@$(PYTHON_IN_VENV) -m scripts.ui --port "$$PORT"

test: $(INSTALLED_DEV) ## Run the tests; ARGS='-k merge' goes to pytest, WORKERS=0 runs them in one process
	@$(PYTHON_IN_VENV) -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

soak: $(INSTALLED_DEV) ## Run the long and large tests
	@$(PYTHON_IN_VENV) -m pytest -m soak --timeout 7200 $(ARGS)

campaign: $(INSTALLED_DEV) ## Run every kind of failure to its end, many times over; hours on a busy machine
	@mkdir -p build
	@CAMPAIGN_RECORD=build/campaign.jsonl $(PYTHON_IN_VENV) -m pytest -m campaign --timeout 7200 $(ARGS)

rehearsal: $(INSTALLED_DEV) ## Compile the device path as for 8 devices, without having them
	@$(PYTHON_IN_VENV) -m pytest tests/rehearsal -m rehearsal $(ARGS)

celery: $(INSTALLED_DEV) ## Run docker/compose.yaml without Docker; Debian's postgresql, redis-server and docker-compose
	@scripts/install.sh requirements-celery.txt
	@$(PYTHON_IN_VENV) -m pytest tests/docker -m celery $(ARGS)

mlflow: $(INSTALLED_DEV) ## Tell a real MLflow server of runs; it is installed into .venv-server, since it clashes with Airflow
	@test -d .venv-server || $(PYTHON_IN_VENV) -m uv venv --quiet --python $(PYTHON_IN_VENV) .venv-server
	@$(PYTHON_IN_VENV) -m uv pip install --quiet --python .venv-server/bin/python --require-hashes -r requirements-mlflow-server.txt
	@$(PYTHON_IN_VENV) -m pytest -m mlflow $(ARGS)

transformers: $(INSTALLED_DEV) ## Load exported models by transformers; it is installed, with PyTorch, into .venv-transformers
	@test -d .venv-transformers || $(PYTHON_IN_VENV) -m uv venv --quiet --python $(PYTHON_IN_VENV) .venv-transformers
	@$(PYTHON_IN_VENV) -m uv pip install --quiet --python .venv-transformers/bin/python --require-hashes -r requirements-transformers.txt
	@$(PYTHON_IN_VENV) -m pytest -m transformers $(ARGS)

screenshots: $(INSTALLED_DEV) ## Take the documents' screenshots again, in a real browser
	@SHARDLINE_SCREENSHOTS=docs/images $(PYTHON_IN_VENV) -m pytest tests/airflow

docs: $(INSTALLED_DEV) ## Build the documents into build/site; Python 3.11 or newer
	@$(PYTHON_IN_VENV) -m scripts.parameters > docs/parameters.md
	@.venv/bin/sphinx-build -W --keep-going -q -b html -d build/doctrees docs build/site

lint: $(INSTALLED_DEV) ## Check style, types, the direction of imports and the container files
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m ruff format --check .
	$(PYTHON_IN_VENV) -m mypy
	.venv/bin/lint-imports
	.venv/bin/hadolint docker/Dockerfile docker/kubernetes/Dockerfile
	scripts/check_compose.sh

format: $(INSTALLED_DEV) ## Format the code and put its imports in order
	$(PYTHON_IN_VENV) -m ruff check --fix .
	$(PYTHON_IN_VENV) -m ruff format .

airflow: $(INSTALLED) ## Airflow's command line on the home in the checkout; ARGS='dags list'
	@$(PYTHON_IN_VENV) -m scripts.local_airflow $(ARGS)

lock: $(INSTALLED_DEV) ## Compile requirements*.in into hash-locked requirements*.txt, ARGS='--upgrade'
	for name in requirements requirements-uv requirements-celery requirements-s3 requirements-kubernetes requirements-signing \
	    requirements-openlineage requirements-dev requirements-mlflow-server requirements-transformers; do \
	    $(PYTHON_IN_VENV) -m uv pip compile --quiet --universal --python-version 3.10 --generate-hashes $(ARGS) \
	        $$name.in -o $$name.txt || exit; \
	done

clean: ## Remove .venv, Airflow's home and caches; runs, data and models (var) stay
	rm -rf .venv .venv-server .venv-transformers .airflow .mypy_cache .ruff_cache .import_linter_cache .hypothesis kernel_meta
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.txt requirements-uv.txt
	@scripts/install.sh requirements.txt
	@touch $@

$(INSTALLED_DEV): $(INSTALLED) requirements-dev.txt
	@scripts/install.sh requirements-dev.txt
	@touch $@
