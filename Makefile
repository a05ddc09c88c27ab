# make run    the page at http://$(HOST):$(PORT)
# make test   style, types and tests
# Each makes .venv with what it needs, once. On a system without make, see the README.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 7860
ARGS ?=
BIN := .venv/bin

.PHONY: run test lint format clean

run: .venv/.run
	$(BIN)/python app.py --host $(HOST) --port $(PORT) $(ARGS)

test: lint
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv" >&2; rm -rf .venv; exit 1; }

.venv/.run: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@echo "Compiling the CPU rasterizer, once."
	@$(BIN)/python -c "from dreamerxl.gaussians.rasterize_cpu import warm_up; warm_up()"
	@touch $@

.venv/.test: requirements.txt requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@ .venv/.run
