# Everything a developer or the CI script runs; every target builds .venv by itself.
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

# Tests start hundreds of processes and four collections: none should compile the same modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test deep mutants lab lab-long lab-stalled cancelled check sim nightly soak trials bench format clean

$(READY): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(READY)
	$(VENV)/bin/atoll demo --once

# In a new clone one process rewrites the assertions of all tests, or six would do so side by side.
# What takes many seeds, cases or examples runs a part of them here, and all in `make deep`.
test: $(READY)
	@$(PY) -m pytest --collect-only -q > /dev/null || true
	$(PY) -m pytest -n 6 --dist worksteal

# What a commit must pass beyond `make test`: what that runs a part of, whole. Every simulation with its seeds, 200 of the
# election, properties with all examples, and what takes long without waiting.
deep: $(READY)
	$(PY) -m pytest --deep -m "deep or partly" --timeout 300 -n logical --dist worksteal

# Every mutant of every machine; `make test` tries three of the election. Some take a minute of a slow core.
mutants: $(READY)
	$(PY) -m pytest tests/mutants --all-mutants --timeout 300 -n 2

# Clusters of real processes, in network namespaces where this host lets us: the demo, faults, the documents' commands.
# Limits of time are far beyond what anything takes: a host that runs others stands still for seconds.
lab: $(READY)
	$(PY) -m pytest tests/lab --timeout 200 -n 3

# The same on a host that stands still now and then, for up to 1.4 s: what loses more by it than that time is a fault.
lab-stalled: $(READY)
	$(PY) -m atoll.testing.stalled_host_main -- $(PY) -m pytest tests/lab --no-void --timeout 200 -n 3

# Every test that runs whole on one event loop is cancelled at a moment of its first 0.4 s: all that it began must end.
# What a test leaves open then, and Python closes, is not looked at.
cancelled: $(READY)
	$(PY) -m pytest --no-void --cancel-within 0.4 -k "asyncio or uvloop or trio" -n 4 --dist worksteal \
		-W "ignore::pytest.PytestUnraisableExceptionWarning"

# The supernode of a site of real nodes cut off, moved, made to lose frames; killed 300 times and stopped 300 times. An hour.
# The relay in use dies 300 times under 200 MB from site to site, half an hour. Every kind of NAT is punched through to
# every other, five minutes. Then a durable actor is moved 1,000 times between processes, of which one in ten is killed;
# and 300 times in peace.
lab-long: $(READY)
	$(PY) -m atoll.testing.site_faults_main
	$(PY) -m atoll.testing.failovers_main
	$(PY) -m atoll.testing.relay_deaths_main
	$(PY) -m atoll.testing.punches_main
	$(PY) -m atoll.testing.hand_overs_main --moves 1000
	$(PY) -m atoll.testing.hand_overs_main --moves 300 --kill-every 0

check: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy -p atoll

# What takes minutes in one piece: a day of 50 nodes, 100 site-hours, moves of actors.
sim: $(READY)
	$(PY) -m atoll.testing.false_deaths_main
	$(PY) -m atoll.testing.site_hours_main --hours 100
	$(PY) -m atoll.testing.hand_over_runs_main --moves 20000 --crashes 2000

# A night: ten times the seeds of `make deep`; a million moves and a hundred thousand crashes of migratable actors, half
# an hour of one core; then the election, about fourteen hours of one core.
nightly: $(READY)
	$(PY) -m pytest tests/sim tests/mutants --deep --all-mutants --sim-seeds 2000 --sim-seconds 40 --timeout 3600 -n logical --dist worksteal
	$(PY) -m atoll.testing.hand_over_runs_main
	$(PY) -m atoll.testing.site_hours_main --hours 10000

# A million hostile cases for each thing that reads what comes from outside; about ten minutes of one core. Then a relay
# is flooded in six ways, for three minutes, while good peers talk through it.
soak: $(READY)
	$(PY) -m atoll.testing.soak_main
	$(PY) -m atoll.testing.relay_floods_main

# Faults on whole clusters of real processes, while calls go on; about 25 minutes.
trials: $(READY)
	$(PY) -m atoll.testing.trials_main kill freeze cut plug many rest

bench: $(READY)
	$(VENV)/bin/atoll bench actors
	$(VENV)/bin/atoll bench relay
	$(VENV)/bin/atoll bench sessions
	$(PY) -m atoll.testing.node_at_rest_main

format: $(READY)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
