# make demo [ONCE=1]   the whole of flipwatch on this machine
# make test            lint, types and tests; PYTHON=python3.13 chooses another Python >= 3.11
# make test-kernel     the agent in Debian's own kernels under QEMU, with errors injected; Debian and root only
# make bench           speed, memory and detection figures, beside the peers (about a quarter of an hour)
PYTHON ?= python3
bin := .venv/bin

.PHONY: demo test test-kernel bench clean

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

bench:
	@PYTHON=$(PYTHON) deploy/prepare.sh test
	$(bin)/python -m tests.bench

clean:
	rm -rf .venv build *.egg-info checksum/*.so agent/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
