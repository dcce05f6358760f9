# Every target works alone from a fresh clone: it makes .venv first when that is missing or out of date.
# PYTHON=python3.12 chooses the interpreter, ARGS='-k sweep -x' goes to pytest, or to the command that is run.

.DEFAULT_GOAL := help
.PHONY: pythons restore-drill upgrade-test console release bench-history schema audit test-fast test-whole floods fuzz properties chaos-runs growth help install demo dev bench test chaos search mutants lint check constraints pin-images

PYTHON ?=
ARGS ?=
SEED ?= 1
MINUTES ?= 5
EXAMPLES ?= 200
FAULTS ?=
BIN := .venv/bin
# Named after where the clone stands and the Python asked for: an environment that was moved is made anew.
STAMP := .venv/.installed-$(shell printf '%s' '$(CURDIR) $(PYTHON)' | cksum | cut -d ' ' -f 1)
PLOTS := $(subst installed,plots,$(STAMP))

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Make the virtual environment at .venv

console: $(STAMP) ## Build the console's pages, which the API serves at /console
	@.ci/console

demo: $(STAMP) ## Run the whole story on embedded servers, then prove the books; ARGS=--stay keeps it open
	@.ci/console --if-possible
	@$(BIN)/taximeter demo $(ARGS)

dev: $(STAMP) ## Run everything on embedded servers until Ctrl-C; the data stays in .data
	@.ci/console --if-possible
	@$(BIN)/taximeter dev $(ARGS)

bench: $(PLOTS) ## Measure speed against its baselines on this machine; ARGS=--quick for a minute of it
	@PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

bench-history: $(PLOTS) ## Draw how its figures went from run to run; ARGS='charges --png FOLDER' for files
	@PYTHONPATH=tests $(BIN)/python -m bench.plot $(ARGS)

growth: $(STAMP) ## Say what a load takes on paper, and what breaks first; ARGS='--requests 5000 --users 9000'
	@PYTHONPATH=tests $(BIN)/python -m growth $(ARGS)

test: $(STAMP) ## Run the tests on embedded servers, or on TAXIMETER_REDIS_URL and TAXIMETER_DATABASE_URL
	@.ci/test $(ARGS)

test-whole: $(STAMP) ## Run what make test shows in small: all pages, pairs, sweeps, a LiteLLM proxy, then what is timed
	@.ci/test --whole $(ARGS)

pythons: $(STAMP) ## Run the wheel and the tests that need no server on Python 3.12 to 3.14; ARGS=3.14 for one
	@.ci/pythons --tests $(ARGS)

test-fast: $(STAMP) ## Run the tests that need no server; they are found by what they ask for
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -q -m fast $(ARGS)

chaos: $(STAMP) ## Break everything while credits are spent, then judge; SEED=1 MINUTES=5 and FAULTS=a,b choose
	PYTHONPATH=tests $(BIN)/python -m chaos --seed $(SEED) --minutes $(MINUTES) $(if $(FAULTS),--faults $(FAULTS)) $(ARGS)

restore-drill: $(STAMP) ## Back up a system, put its stores back in every way, count what is missing; ARGS='--rows 1000000'
	@PYTHONPATH=tests $(BIN)/python -m drill $(ARGS)

upgrade-test: $(STAMP) ## Upgrade a system of the last release under traffic, and take it back; docs/releases.md
	$(BIN)/python -m pytest -n 0 -q -m 'long or not long' tests/upgrade $(ARGS)

chaos-runs: $(STAMP) ## Make what is too long for make test: chaos runs, whole sweeps, alarms at their own pace, the demo of two cells
	$(BIN)/python -m pytest -n 0 -q -m long $(ARGS)

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

pictures: $(STAMP) ## Make the pictures of docs/console.md in Debian's Chromium
	@.ci/console
	@WRITE_PICTURES=1 $(BIN)/python -m pytest -n 0 -q tests/console/test_pictures.py

schema: $(STAMP) ## Write migrations/schema.sql as the migrations make it
	@WRITE_SCHEMA=1 $(BIN)/python -m pytest -n 0 -q tests/sql/test_migrations.py -k committed_schema

lint: $(STAMP) ## Check style, types, who may import whom, and our code for known faults (bandit)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@# Its findings are on stdout; on stderr it repeats each mark that one of its other tests did not need.
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml --exclude ./api/console api meter settler 2>/dev/null

audit: $(STAMP) ## Look for known faults in what is pinned (pip-audit)
	@.ci/audit

check: lint test ## Everything that must be green before a commit

constraints: ## Pin the newest versions of all packages again
	.ci/constraints

release: $(STAMP) ## Build what is handed out into dist/: wheel, sdist, image context, chart, SBOM, notes and checksums
	@.ci/release

pin-images: ## Pin the container images of others by digest, in docker-compose.override.yml
	@deploy/pin-images

$(PLOTS): $(STAMP) .ci/constraints-plots.txt
	@$(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --no-deps --require-hashes \
	  --requirement .ci/constraints-plots.txt
	@touch $@

$(STAMP): pyproject.toml .ci/constraints.txt .ci/venv
	@PYTHON='$(PYTHON)' .ci/venv
	@touch $@
