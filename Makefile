# Every target works alone from a fresh clone: it makes .venv first when that is missing or out of date.
# PYTHON=python3.12 chooses the interpreter, ARGS='-k sweep -x' goes to pytest, or to the command that is run.

.DEFAULT_GOAL := help
.PHONY: schema audit test-fast floods fuzz properties chaos-runs help install demo dev bench test chaos search mutants lint check constraints pin-images

PYTHON ?=
ARGS ?=
SEED ?= 1
MINUTES ?= 5
EXAMPLES ?= 200
FAULTS ?=
BIN := .venv/bin
# Named after where the clone stands and the Python asked for: an environment that was moved is made anew.
STAMP := .venv/.installed-$(shell printf '%s' '$(CURDIR) $(PYTHON)' | cksum | cut -d ' ' -f 1)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Make the virtual environment at .venv

demo: $(STAMP) ## Run the whole story on embedded servers, then prove the books
	@$(BIN)/taximeter demo $(ARGS)

dev: $(STAMP) ## Run everything on embedded servers until Ctrl-C; the data stays in .data
	@$(BIN)/taximeter dev $(ARGS)

bench: $(STAMP) ## Measure speed against its baselines on this machine; ARGS=--quick for a minute of it
	@PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

test: $(STAMP) ## Run the tests on embedded servers, or on TAXIMETER_REDIS_URL and TAXIMETER_DATABASE_URL
	@.ci/test $(ARGS)

test-fast: $(STAMP) ## Run the tests that need no server, in half a minute; they are found by what they ask for
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -q -m fast $(ARGS)

chaos: $(STAMP) ## Break everything while credits are spent, then judge; SEED=1 MINUTES=5 and FAULTS=a,b choose
	PYTHONPATH=tests $(BIN)/python -m chaos --seed $(SEED) --minutes $(MINUTES) $(if $(FAULTS),--faults $(FAULTS)) $(ARGS)

chaos-runs: $(STAMP) ## Make the chaos runs that are too long for make test: always the same faults
	$(BIN)/python -m pytest -n 0 -q -m long tests/chaos $(ARGS)

search: $(STAMP) ## Try every small world as deep as MINUTES=10 allow, on the real scripts; ARGS='--budget loss=2' and more
	PYTHONPATH=tests $(BIN)/python -m search --minutes $(if $(filter file,$(origin MINUTES)),10,$(MINUTES)) $(ARGS)

properties: $(STAMP) ## Try every property on examples that the suite never makes; EXAMPLES=200, SEED=1 repeats a run
	PROPERTY_SEED=$(if $(filter file,$(origin SEED)),random,$(SEED)) PROPERTY_EXAMPLES=$(EXAMPLES) \
	  $(BIN)/python -m pytest -n 0 -q -m hypothesis $(ARGS)

fuzz: $(STAMP) ## Ask both programs, in every role, what nobody thought of, for MINUTES=10; any answer 500 is a failure
	@FUZZ_MINUTES=$(if $(filter file,$(origin MINUTES)),10,$(MINUTES)) $(BIN)/python -m pytest -n 0 -s -q \
	  tests/api/test_schemathesis.py tests/sidecar/test_schemathesis.py $(ARGS)

floods: $(STAMP) ## How much slower a paying user's calls are under floods of 500 connections; wants a quiet machine
	$(BIN)/python -m pytest -n 0 -s -q tests/bench/test_floods.py $(ARGS)

mutants: $(STAMP) ## Plant bugs, one at a time, see which test notices each, and write docs/mutants.md
	PYTHONPATH=tests $(BIN)/python -m mutants $(ARGS)

schema: $(STAMP) ## Write migrations/schema.sql as the migrations make it
	@WRITE_SCHEMA=1 $(BIN)/python -m pytest -n 0 -q tests/sql/test_migrations.py -k committed_schema

lint: $(STAMP) ## Check style, types and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(STAMP) ## Look for known faults: bandit on our code, pip-audit on what is pinned
	@.ci/audit

check: lint test ## Everything that must be green before a commit

constraints: ## Pin the newest versions of all packages again
	.ci/constraints

pin-images: ## Pin the container images of others by digest, in docker-compose.override.yml
	@deploy/pin-images

$(STAMP): pyproject.toml .ci/constraints.txt .ci/venv
	@PYTHON='$(PYTHON)' .ci/venv
	@touch $@
