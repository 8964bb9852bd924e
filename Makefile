# Two commands are all it takes: `make repro` regenerates the study, `make test` tests the project. Each sets up what it needs.

PYTHON ?= python3
PROFILE = default
CHROMIUM = /usr/bin/chromium
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
export BIVREC_TORCHRUN := $(TORCHRUN)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup data fetch repro restore test test-pages course grade test-course lab explore site notebooks readme verify bench bench-curves bench-drawn bench-gpu bench-datasets lint clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */make \1\t/' | expand -t 22

setup: .venv/ready  ## the virtual environment in .venv, from requirements.lock

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5) and "ERROR: bivrec needs Python 3.11.5 or newer; this is " + sys.version.split()[0] + ". Name a newer one: make PYTHON=python3.12 setup")'
	@echo "Setting up .venv (two to four minutes)"
	@rm -f .venv/ready
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --requirement requirements.lock
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch .venv/ready

data: setup
	@test -d data || dvc pull --quiet data.dvc

fetch: setup $(addprefix fetch-,$(DATASET))  ## a published dataset into raw/ or BIVREC_DATA: make fetch DATASET=ml-25m

fetch-%: setup
	@python -m bivrec fetch '$*' $(if $(ACCEPT),accept)

repro: data $(addprefix fetch-,$(DATASETS))  ## regenerates every result; DATASETS="baby clothing": on these; PROFILE=smoke: the chain on generated data, in minutes; PROFILE=full: hours, minutes on a GPU
	@$(if $(DATASETS),python -m bivrec choose $(DATASETS))
	@python -m bivrec check '$(PROFILE)'
	@since=$$(date -u '+%Y-%m-%d %H:%M') && dvc repro $(filter-out default/dvc.yaml,$(PROFILE)/dvc.yaml) && python -m bivrec summary '$(PROFILE)' "$$since"

restore: setup  ## the embedded data as published, whatever data/ holds
	@git checkout --quiet data.dvc
	@dvc pull --quiet --force data.dvc

test: data  ## every test: the module, every notebook on the planted data, dvc.lock
	@python -m pytest --numprocesses 2 --dist loadfile

test-pages: site .venv/pages  ## the site, the notebooks in JupyterLab and the explorer in a real Chromium (CHROMIUM=/path)
	@CHROMIUM='$(CHROMIUM)' python -m pytest tests/browser/check_site.py tests/browser/check_jupyter.py

lab: data  ## JupyterLab, opened at the overview
	@JUPYTER_CONFIG_PATH='$(CURDIR)/docs/jupyter' jupyter lab --LabApp.default_url=/lab/tree/README.md

explore: data .venv/readers  ## the explorer as a page of its own, without code
	@JUPYTER_PATH='$(CURDIR)/docs/jupyter' voila --template=bivrec notebooks/explore.ipynb

site: data .venv/readers  ## the study as web pages in site/, without scripts or anything from elsewhere
	@python docs/draw.py && python docs/build.py

.venv/readers .venv/pages .venv/course: .venv/%: .venv/ready
	@$(BIN)/pip install --quiet --constraint requirements.lock --no-build-isolation --editable '.[$*]'
	@touch $@

course: .venv/course  ## the assignments: students' copies, bundles, rubrics into build/course; every solution is run
	@python assignments/build.py

grade: setup  ## grades a folder of notebooks offline: make grade SUBMISSION=folder; further settings in OPTIONS="--seconds 120"
	@python assignments/grade.py '$(SUBMISSION)' $(OPTIONS)

test-course: .venv/course  ## the course's long tests: solutions, unsolved copies, wrong solutions, hostile ones
	@python -m pytest assignments/test_whole_course.py

notebooks: setup  ## runs the notebooks on their defaults and saves their outputs
	@python -m bivrec notebooks

readme: setup  ## puts the tables of results/ into README.md and docs/studies.md
	@python -c 'from bivrec.studies.report import write_pages; write_pages()'

verify: setup  ## compares results/ with what is committed, within the spread over seeds
	@python -m bivrec verify

bench: setup  ## our speed beside that of RecBole, RecTools and the authors' way; writes benchmarks/
	@python benchmarks/bench.py

bench-curves: setup  ## a training step's cost against catalogue, history, interests, batch; writes benchmarks/
	@python benchmarks/curves.py

bench-drawn: setup  ## what drawing the softmax's items costs in quality; writes benchmarks/
	@python benchmarks/drawn.py

bench-gpu: setup  ## training on a GPU, where there is one; writes benchmarks/h200.json
	@python benchmarks/gpu.py

bench-datasets: setup  ## every published format at full size, with generated values; writes benchmarks/datasets.json
	@python benchmarks/datasets.py

lint: setup  ## style and names
	@ruff check . && ruff format --check .

clean:  ## removes what make built, not the data nor the results
	@rm -rf .venv build site .pytest_cache .ruff_cache

hashed:  ## as setup, each package held against its sha256 in requirements.hashes
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements.hashes
	@$(MAKE) --no-print-directory setup

audit: setup  ## known weaknesses of the locked packages, asked of the package index; says so where it cannot be reached
	@python tests/trust/audit.py

trust: setup  ## the long part of the tests of trust: kills, a full disk, leaks, fuzzing; four hours; PARTS="fuzz chain": these alone
	@python tests/trust/run.py $(PARTS)

.PHONY: hashed audit trust sound store

sound: .venv/ready
	@$(BIN)/python -c '' 2>/dev/null || { echo 'ERROR: .venv is broken: its Python does not start; `make clean setup` builds it anew' >&2; exit 1; }

store: sound
	@python -m bivrec store

setup: sound

restore: store

data: $(if $(wildcard data),,store)
