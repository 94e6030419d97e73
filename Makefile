# make demo [ONCE=1]   the whole of flipwatch on this machine
# make test            lint, types and tests; PYTHON=python3.13 chooses another Python >= 3.11
# make test-kernel     the agent in Debian's own kernels under QEMU, with errors injected; Debian and root only
# make test-system     the services under a real systemd, in a container and under QEMU; Debian and root only
# make dashboards      build the Grafana dashboards and their table anew from dashboards/grafana/*.py
# make bench           speed and memory figures, beside the peers (about ten minutes)
# make evaluate        what the correlator finds, misses and mistakes, into evaluation.json (takes long)
# make fuzz [TIME=s]   look for bytes that a reader can't bear, for 60 s or so long; see CONTRIBUTING.md
PYTHON ?= python3
TIME ?= 60
bin := .venv/bin

.PHONY: demo test test-kernel test-system dashboards bench evaluate fuzz clean

demo:
	@PYTHON=$(PYTHON) deploy/prepare.sh demo
	$(bin)/flipwatch demo $(if $(ONCE),--once)

test:
	@PYTHON=$(PYTHON) deploy/prepare.sh test
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/python -m pytest

test-kernel:
	@PYTHON=$(PYTHON) deploy/prepare.sh kernel
	$(bin)/python -m pytest tests/kernel

test-system:
	@PYTHON=$(PYTHON) deploy/prepare.sh system
	$(bin)/python -m pytest tests/systemd

dashboards:
	@PYTHON=$(PYTHON) deploy/prepare.sh test
	$(bin)/python -m dashboards.grafana

bench:
	@PYTHON=$(PYTHON) deploy/prepare.sh bench
	$(bin)/python -m tests.bench

evaluate:
	@PYTHON=$(PYTHON) deploy/prepare.sh test
	$(bin)/flipwatch evaluate --out evaluation.json

fuzz:
	@PYTHON=$(PYTHON) deploy/prepare.sh fuzz
	$(bin)/python -m tests.fuzz $(TIME)

clean:
	rm -rf .cache .venv build *.egg-info tests/dashboards/types/node_modules checksum/*.so agent/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
