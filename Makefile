# Two commands: `make run` and `make test`. Each target is one line that can be typed without make as well;
# on Windows read .venv\Scripts\python for .venv/bin/python. README.md has them all.
#   PROFILE=smoke|laptop|gpu   DATA=shop|hub:<id>|<folder>|<table>   (or MM_PROFILE, MM_DATA)
#   ALL=1 runs all notebooks, ONLY="01 03" just these
PYTHON ?= python3
PROFILE ?= $(MM_PROFILE)
DATA ?= $(MM_DATA)
export MM_PROFILE := $(PROFILE)
export MM_DATA := $(DATA)
BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)

.PHONY: run test test-all lab studies outputs bench badges clean

run: .venv/ready  ## notebooks 01 to 05, headless; goes on where it stopped
	@$(BIN)/python -m mmhelpers.course.runner $(if $(ONLY),--only $(ONLY),$(if $(ALL),--all))

test: .venv/ready  ## ruff and pytest, which runs every notebook in the smoke profile
	@$(BIN)/python -m ruff check . && $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: .venv/ready  ## the slow tests: other versions of the libraries, a fresh installation, the Hub
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

lab: export MALLOC_TRIM_THRESHOLD_ := 2147483647
lab: .venv/ready  ## the notebooks in JupyterLab; freed memory is kept, as course/runner.py says
	@$(BIN)/python -m jupyterlab --notebook-dir notebooks

studies: .venv/ready  ## the long comparisons of notebooks 02 to 04, three seeds each, for notebooks/studies; goes on where it stopped
	@MM_STUDIES=3 MM_BUILD=build/studies $(BIN)/python -m mmhelpers.course.runner \
		--profile laptop --data shop --only 01 02 03 04

outputs: .venv/ready  ## what `make run ALL=1 PROFILE=laptop DATA=shop` made, into notebooks/ and README.md
	@$(BIN)/python -m scripts.outputs

bench: .venv/ready  ## how fast it is next to other ways, about 7 minutes: benchmarks/results
	@$(BIN)/python -m benchmarks.bench

badges: .venv/ready  ## the course's address in notebooks and README; in a fork: make badges REPO=owner/name
	@$(BIN)/python -m scripts.badges $(if $(REPO),--repo "$(REPO)")

clean:  ## forget every result; the environment stays
	rm -rf build artifacts

.venv/ready: requirements.txt requirements-tools.txt constraints.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \"Python 3.11 or newer is needed\")"
	@echo "Installing into .venv, once; this takes some minutes and needs the network."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[tools]" -c constraints.txt
	@touch $@
