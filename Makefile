# Two commands: `make run` and `make test`. Each target is one line that can be typed without make as well;
# on Windows read .venv\Scripts\python for .venv/bin/python. README.md has them all.
#   PROFILE=smoke|laptop|gpu   DATA=catalogue|figures|hub:<id>|<folder>|<table>   (or MM_PROFILE, MM_DATA)
PYTHON ?= python3
PROFILE ?= $(MM_PROFILE)
DATA ?= $(MM_DATA)
export MM_PROFILE := $(PROFILE)
export MM_DATA := $(DATA)
BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test lab outputs bench badges compat clean

run: .venv/ready  ## all notebooks, headless; goes on where it stopped
	@$(BIN)/python -m mmhelpers.course.runner run

test: .venv/ready  ## ruff and pytest, which runs every notebook in the smoke profile
	@$(BIN)/python -m ruff check . && $(BIN)/python -m pytest

lab: .venv/ready  ## the notebooks in JupyterLab
	@$(BIN)/python -m jupyterlab --notebook-dir notebooks

outputs: .venv/ready  ## executed laptop notebooks and their scoreboard into notebooks/ and README.md
	@$(BIN)/python -m mmhelpers.course.runner commit-outputs && $(BIN)/python -m mmhelpers.course.runner table

bench: .venv/ready  ## how fast it is next to other ways, about 14 minutes: benchmarks/results, README.md
	@$(PIP) --no-deps -r benchmarks/requirements.txt -c constraints.txt && $(BIN)/python -m benchmarks.bench

badges: .venv/ready  ## the course's address in notebooks and README; in a fork: make badges REPO=owner/name
	@$(BIN)/python scripts/badges.py $(if $(REPO),--repo "$(REPO)")

compat: .venv/ready  ## what notebooks call, against the oldest and newest libraries; and Colab's pins
	@$(BIN)/python scripts/compat.py

clean:  ## forget every result; the environment stays
	rm -rf build artifacts

.venv/ready: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \"Python 3.11 or newer is needed\")"
	@echo "Installing into .venv, once; this takes some minutes and needs the network."
	@$(PYTHON) -m venv .venv
	@$(PIP) -r requirements.txt -c constraints.txt
	@$(PIP) --no-deps -e .
	@touch $@
