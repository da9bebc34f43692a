.POSIX:
.SUFFIXES:

# The interpreter for the virtual environments; empty: the first that is found, and is 3.11 or newer.
PYTHON =
# An older Airflow for the chaos suite, such as 3.1-python3.12 or 2.11-python3.11; empty: the newest.
AIRFLOW =
# What of the support matrix is tested, such as "2.11-python3.12 lowest-python3.11"; empty: all of it.
MATRIX =
# More arguments for pytest.
ARGS =

VENV = .venv
BIGQUERY_VENV = .venv-bigquery
BENCH_VENV = .venv-bench
OUTSIDERS_VENV = .venv-outsiders
UV = $(VENV)/bin/uv
INSTALL = $(UV) pip install --quiet --compile-bytecode
BUILD_INPUTS = pyproject.toml rig/constraints/3.3.txt airflow_provider_dicom/__init__.py
CHAOS_TESTS = tests/chaos
# What an older Airflow does in another way: kills, crashes, and what a retry knows.
CHAOS_TESTS_OLDER = tests/chaos/test_people.py tests/chaos/test_crashes.py tests/chaos/test_retries.py
# The provider's own unit tests, in seconds.
QUICK = tests/unit --ignore=tests/unit/emulator --ignore=tests/unit/benchmarks -m 'not slow'
# Tests run side by side, three processes for two cores; empty: one after the other.
PARALLEL = -n auto
# Two clusters at once, because a cluster mostly waits; empty: one cluster.
CHAOS_PARALLEL = -n 2
COVERED = --cov --cov-branch --cov-report=term --cov-fail-under=90

.PHONY: bench docs help demo test test-chaos test-demo test-matrix test-outsiders test-scale test-system quick watch lint lock clean

help:
	@echo "make demo   run an export from Airflow to Cloud Storage on this machine; needs no Google account; the"
	@echo "            examples, BigQuery's too, then run by a click in the Airflow that it leaves open"
	@echo "make test   set up and run the whole test suite; a part of it: make test COVERED= ARGS='-k deferrable'"
	@echo "make test-demo  click each example in the Airflow that the demo leaves open"
	@echo "make quick  run the unit tests that need no local Healthcare API, in seconds; make watch: after each change"
	@echo "make test-chaos  kill, stop and restart everything around exports, 17 minutes; as root, it installs"
	@echo "            PostgreSQL and Redis; a part of it: make test-chaos ARGS='-k kill'"
	@echo "            with an older Airflow: make test-chaos AIRFLOW=2.11-python3.12"
	@echo "make test-matrix  the unit and integration tests, and a real Airflow, with each Airflow and Python"
	@echo "            supported; a part of it: make test-matrix MATRIX='2.11-python3.12 lowest-python3.11'"
	@echo "make test-outsiders  other people's clients of the Healthcare API against the local one, 2 minutes"
	@echo "make test-scale  export 10,000 instances, and 50 DICOM stores a few at a time, and show 5,000 exports;"
	@echo "            15 minutes"
	@echo "make test-system  the example DAGs against a real Google project, if its environment variables are set"
	@echo "            As root, they install what they miss: Chromium, DCMTK, PostgreSQL, Redis; NO_INSTALL=1 prevents it."
	@echo "make lint   ruff, mypy and codespell"
	@echo "make docs   build the documentation, build/docs/index.html"
	@echo "make bench  measure the trigger beside other providers', an hour; as root, it installs PostgreSQL;"
	@echo "            the real triggerer only: ARGS=--triggerer; a short look: ARGS=--quick"
	@echo "make lock   pin the newest versions of what the demo and the tests are run with"
	@echo "make clean  remove all that the other targets made"
	@echo "PYTHON=/path/to/python chooses the interpreter (3.11 or newer)."

demo: $(VENV)/.demo-installed $(BIGQUERY_VENV)/.installed
	@$(VENV)/bin/python -m demo

test: $(VENV)/.tests-installed $(BIGQUERY_VENV)/.installed
	@sh rig/install_dcmtk.sh
	@sh rig/install_chromium.sh
	$(VENV)/bin/python -m pytest $(PARALLEL) $(COVERED) $(ARGS)

quick: $(VENV)/.tests-installed
	$(VENV)/bin/python -m pytest -q $(QUICK) $(ARGS)

watch: $(VENV)/.tests-installed
	$(VENV)/bin/watchfiles "$(VENV)/bin/python -m pytest -q $(QUICK) $(ARGS)" airflow_provider_dicom tests/unit

test-demo: $(VENV)/.tests-installed $(BIGQUERY_VENV)/.installed
	@sh rig/install_chromium.sh
	$(VENV)/bin/python -m pytest tests/demo $(ARGS)

test-chaos: $(VENV)/.chaos-installed $(BIGQUERY_VENV)/.installed
	@sh rig/install_databases.sh
	@$(VENV)/bin/python -m rig.environments $(AIRFLOW)
	CHAOS_AIRFLOW=$(AIRFLOW) $(VENV)/bin/python -m pytest $(CHAOS_PARALLEL) $(CHAOS_TESTS$(AIRFLOW:%=_OLDER)) $(ARGS)

test-matrix: $(VENV)/.tests-installed $(BIGQUERY_VENV)/.installed
	@sh rig/install_databases.sh
	@sh rig/install_dcmtk.sh
	@sh rig/install_chromium.sh
	@$(VENV)/bin/python -m rig.matrix --pytest '$(ARGS)' $(MATRIX)

test-outsiders: $(VENV)/.tests-installed $(OUTSIDERS_VENV)/.installed
	$(OUTSIDERS_VENV)/bin/python -m pytest -c tests/outsiders/pytest.ini tests/outsiders $(ARGS)

test-scale: $(VENV)/.tests-installed
	@sh rig/install_chromium.sh
	$(VENV)/bin/python -m pytest -s tests/scale $(ARGS)

# The system tests say what they need.
test-system: $(VENV)/.tests-installed
	$(VENV)/bin/python -m pytest -rs tests/system $(ARGS)

lint: $(VENV)/.tests-installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell

docs: $(VENV)/.docs-installed
	AIRFLOW_HOME=$$(pwd)/build/airflow $(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet --builder html docs build/docs
	@echo "build/docs/index.html"

bench: $(BENCH_VENV)/.installed
	@sh rig/install_databases.sh
	$(BENCH_VENV)/bin/python -m benchmarks $(ARGS)

lock: $(UV)
	sh rig/lock.sh $(UV)

clean:
	rm -rf $(VENV) $(BIGQUERY_VENV) $(BENCH_VENV) $(OUTSIDERS_VENV) .venv-airflow-* .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV):
	@python=$$(sh rig/find_python.sh $(PYTHON)) && echo "Creating $(VENV) with $$python" \
		&& "$$python" -m venv $(VENV) && $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint rig/constraints/3.3.txt uv

$(VENV)/.demo-installed: $(UV) $(BUILD_INPUTS)
	@echo "Installing Airflow, the provider and the emulators into $(VENV); it takes a minute or two, once"
	@$(INSTALL) --python $(VENV) --constraint rig/constraints/3.3.txt --group rig --editable '.[emulator]'
	@touch $@

$(VENV)/.tests-installed: $(UV) $(BUILD_INPUTS)
	@echo "Installing Airflow, the provider, the emulators and the test tools into $(VENV); it takes a minute or two, once"
	@$(INSTALL) --python $(VENV) --constraint rig/constraints/3.3.txt --group dev --editable '.[emulator,openlineage]'
	@touch $@ $(VENV)/.demo-installed

$(VENV)/.docs-installed: $(VENV)/.tests-installed
	@echo "Installing Sphinx into $(VENV)"
	@$(INSTALL) --python $(VENV) --constraint rig/constraints/3.3.txt --group docs
	@touch $@

$(VENV)/.chaos-installed: $(VENV)/.tests-installed
	@echo "Installing Celery and what it needs into $(VENV)"
	@$(INSTALL) --python $(VENV) --constraint rig/constraints/3.3.txt --group chaos
	@touch $@

$(BIGQUERY_VENV)/.installed: $(UV) rig/bigquery-requirements.txt rig/constraints/bigquery.txt
	@echo "Installing the BigQuery emulator into $(BIGQUERY_VENV)"
	@$(UV) venv --quiet --clear --python $(VENV)/bin/python $(BIGQUERY_VENV)
	@$(INSTALL) --python $(BIGQUERY_VENV) --constraint rig/constraints/bigquery.txt \
		--requirement rig/bigquery-requirements.txt
	@HOME=$$(pwd)/$(BIGQUERY_VENV) $(BIGQUERY_VENV)/bin/python -c \
		'import duckdb_extensions; duckdb_extensions.import_extension("spatial")'
	@touch $@

$(OUTSIDERS_VENV)/.installed: $(UV) rig/outsiders-requirements.txt rig/constraints/outsiders.txt
	@echo "Installing other people's clients of the Healthcare API into $(OUTSIDERS_VENV)"
	@$(UV) venv --quiet --clear --python $(VENV)/bin/python $(OUTSIDERS_VENV)
	@$(INSTALL) --python $(OUTSIDERS_VENV) --constraint rig/constraints/outsiders.txt \
		--requirement rig/outsiders-requirements.txt
	@touch $@

$(BENCH_VENV)/.installed: $(UV) $(BUILD_INPUTS) benchmarks/requirements.txt
	@echo "Installing Airflow, the provider and its peers into $(BENCH_VENV)"
	@$(UV) venv --quiet --clear --python $(VENV)/bin/python $(BENCH_VENV)
	@$(INSTALL) --python $(BENCH_VENV) --constraint rig/constraints/3.3.txt \
		--requirement benchmarks/requirements.txt --editable .
	@touch $@
