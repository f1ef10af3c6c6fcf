# One word each; `make help` lists them. Every path is relative, so the checkout may lie in a folder with spaces.
.POSIX:
.PHONY: help setup demo proof test chaos check format clean

SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
READY = .venv/.ready

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## .venv with everything in it (a second call takes no time)
	@echo ".venv is ready"

# PYTHON names the Python to use, TORCH_INDEX a package index with other torch builds; both may be unset.
$(READY): pyproject.toml constraints.txt
	@python=; for p in $${PYTHON:-python3.11 python3.12 python3 python}; do \
		if "$$p" -c '$(SUPPORTED)' >/dev/null 2>&1; then python=$$p; break; fi; done; \
	if test -z "$$python"; then \
		echo "error: $${PYTHON:-no Python on PATH} is not Python 3.11 or 3.12: make setup PYTHON=/path/to/python3.11" >&2; \
		exit 2; fi; \
	.venv/bin/python -c '$(SUPPORTED)' >/dev/null 2>&1 || "$$python" -m venv --clear .venv || { \
		echo "error: $$python cannot make a virtual environment (on Debian: apt install python3-venv)" >&2; exit 2; }
	@echo "Fetching about 0.8 GB of packages (3.2 GB unpacked) into .venv."
	@if test "$$(uname -s)" = Linux && test -z "$$TORCH_INDEX"; then \
		echo "Where the package index has torch only with CUDA, it is 3 GB more: TORCH_INDEX=<index of CPU builds> avoids it."; fi
	@.venv/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt \
		$${TORCH_INDEX:+--extra-index-url "$$TORCH_INDEX"} --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## the whole road on this machine, from nothing to build/demo/talking.mp4
	.venv/bin/emo demo --out build/demo

proof: $(READY) ## the paper's claims on the small model: build/proof/report.md with a number and a picture for each
	.venv/bin/emo proof --out build/proof

# A file's tests share what they make, so a file stays together; half of the time is waiting for processes to start. What
# has servers, clusters and deadlines of its own comes after that, one after the other.
test: $(READY) ## the tests
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --ignore tests/flows --ignore tests/infra/test_two_machines.py
	.venv/bin/python -m pytest tests/flows tests/infra/test_two_machines.py

chaos: $(READY) ## the long kill and load tests: an hour and a half on two cores
	.venv/bin/python -m pytest -s tests/chaos/*.py

check: $(READY) ## format, lint, types, import contracts
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: $(READY) ## rewrite the code in the one format
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean: ## remove everything made here, .venv included
	rm -rf build dist .venv .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
