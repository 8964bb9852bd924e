# `make repro` regenerates the study, `make test` tests the project. Each sets up what it needs.

PYTHON ?= python3
PROFILE = default
CHROMIUM = /usr/bin/chromium
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
export BIVREC_TORCHRUN := $(TORCHRUN)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport $(filter GIT_%,$(.VARIABLES))  # a hook sets them, for another repository
# any folder's name, unquoted and unexpanded
override export SUBMISSION := $(value SUBMISSION)

# Packages from the index; what pip prints goes to a log, whose end is shown if it fails
pip = $(BIN)/pip install --quiet $(1) >>.venv/install.log 2>&1 || { tail -n 15 .venv/install.log >&2; \
	echo 'ERROR: the packages could not be installed; the lines above are the end of .venv/install.log' >&2; exit 1; }

.NOTPARALLEL:  # `make -j8 clean setup` cleans first
.PHONY: help setup sound scm store data fetch repro restore test test-fast test-pages test-course lint \
	course grade lab explore site notebooks readme verify trust audit hashed clean \
	bench bench-curves bench-datasets bench-gpu bench-interests bench-kernels bench-negatives \
	bench-stages

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */make \1\t/' | expand -t 22

setup: sound  ## the virtual environment in .venv, from requirements.lock

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "ERROR: bivrec needs Python 3.11 to 3.13; this is " + sys.version.split()[0] + ". Install one of them, as with `uv python install 3.12`, and name it: make PYTHON=python3.12 setup")'
	@echo "Setting up .venv (two to four minutes; the installer writes to .venv/install.log)"
	@rm -f .venv/ready
	@$(PYTHON) -m venv .venv
	@: >.venv/install.log
	@$(call pip,--requirement requirements.lock)
	@$(call pip,--no-deps --no-build-isolation --editable .)
	@touch .venv/ready

sound: .venv/ready
	@$(BIN)/python -c '' 2>/dev/null || { echo 'ERROR: .venv is broken: its Python does not start; `make clean setup` rebuilds it' >&2; exit 1; }
	@made=$$(sed -n 's/^command = .* -m venv //p' .venv/pyvenv.cfg 2>/dev/null); [ -z "$$made" ] || [ "$$made" -ef .venv ] || \
		{ echo "ERROR: .venv was set up as $$made, and its commands still look there; \`make clean setup\` rebuilds it here" >&2; exit 1; }

scm: sound  # outside a git repository, as in an unpacked zip, DVC asks for this setting
	@git rev-parse --git-dir >/dev/null 2>&1 || grep -qs no_scm .dvc/config.local || dvc config --local core.no_scm true

store: sound
	@python -m bivrec store

data: setup $(if $(wildcard data),,store) scm
	@test -d data || dvc pull data.dvc >/dev/null

restore: store scm  ## the embedded data as published, whatever data/ holds
	@! git rev-parse --git-dir >/dev/null 2>&1 || git checkout --quiet data.dvc
	@dvc pull --force data.dvc >/dev/null

fetch: setup $(addprefix fetch-,$(DATASET))  ## a published dataset into raw/ or BIVREC_DATA: make fetch DATASET=ml-25m

fetch-%: setup
	@python -m bivrec fetch '$*' $(if $(filter yes Yes YES y Y true True TRUE 1,$(ACCEPT)),accept)

repro: data $(addprefix fetch-,$(DATASETS))  ## every result; PROFILE=smoke: on generated data, in minutes; PROFILE=full: hours; DATASETS="baby clothing": on these datasets
	@$(if $(DATASETS),python -m bivrec choose $(DATASETS))
	@python -m bivrec check '$(PROFILE)'
	@since=$$(date -u '+%Y-%m-%d %H:%M:%S') && dvc repro 'report@$(PROFILE)' && python -m bivrec summary '$(PROFILE)' "$$since"

verify: setup  ## compares results/ with what is committed, within the spread of reruns
	@python -m bivrec verify

notebooks: setup  ## runs the notebooks on their defaults and saves their outputs
	@python -m bivrec notebooks

readme: setup  ## writes the tables of results/ into README.md and docs/studies.md
	@python -m bivrec readme

lint: setup  ## style and names
	@ruff check . && ruff format --check .

test: data  ## every test: the module, every notebook on generated data, dvc.lock
	@python -m pytest --numprocesses 2 --dist loadfile

test-fast: data  ## the quick tests, in two minutes: no notebook, no killed process, no long training
	@python -m pytest tests -m 'not slow' --numprocesses 2 --dist loadfile

test-pages: site .venv/pages  ## the site, the notebooks in JupyterLab and the explorer in a real Chromium (CHROMIUM=/path)
	@CHROMIUM='$(CHROMIUM)' python -m pytest tests/browser/check_site.py tests/browser/check_jupyter.py

test-course: .venv/course  ## the course's long tests: solutions, unsolved copies, wrong and hostile solutions
	@python -m pytest assignments/test_whole_course.py

trust: setup  ## the long robustness tests: kills, a full disk, leaks, fuzzing; four hours; PARTS="fuzz chain": only these
	@python tests/trust/run.py $(PARTS)

audit: setup  ## known vulnerabilities of the locked packages, from the package index; says so if it cannot be reached
	@python tests/trust/audit.py

hashed:  ## like setup, with the sha256 of each package checked against requirements.hashes
	@$(PYTHON) -m venv .venv
	@$(call pip,--no-deps --require-hashes --requirement requirements.hashes)
	@$(MAKE) --no-print-directory setup

.venv/readers .venv/pages .venv/course .venv/onnx: .venv/%: .venv/ready
	@$(call pip,--constraint requirements.lock --no-build-isolation --editable '.[$*]')
	@touch $@

lab: data  ## JupyterLab, opened at the overview
	@JUPYTER_CONFIG_PATH="$$PWD/docs/jupyter" jupyter lab --LabApp.default_url=/lab/tree/README.md

explore: data .venv/readers  ## the explorer as a web page, without code
	@JUPYTER_PATH="$$PWD/docs/jupyter" voila --template=bivrec notebooks/explore.ipynb

site: data .venv/readers  ## the study as web pages in site/, without scripts or external resources
	@python docs/draw.py && python docs/build.py

course: .venv/course  ## the assignments: students' copies, bundles, rubrics into build/course; runs every solution; REPOSITORY=https://github.com/owner/name: with links to Colab
	@python assignments/build.py $(if $(REPOSITORY),--repository '$(REPOSITORY)') $(OPTIONS)

grade: setup  ## grades a folder of notebooks offline: make grade SUBMISSION=folder; further settings in OPTIONS="--seconds 120"
	@python assignments/grade.py "$$SUBMISSION" $(OPTIONS)

bench: setup  ## our speed compared with RecBole, RecTools and the authors' method; writes benchmarks/
	@python benchmarks/bench.py

bench-curves: setup  ## the cost of a training step by catalogue, history, interests and batch size; writes benchmarks/
	@python benchmarks/curves.py

bench-stages: setup  ## where the minutes of the last make repro are; writes benchmarks/
	@python benchmarks/stages.py

bench-negatives: setup  ## the loss of quality by a sampled softmax; writes benchmarks/
	@python benchmarks/negatives.py

bench-interests: setup  ## the forms in which interests receive what the patches give; writes benchmarks/
	@python benchmarks/interests.py

bench-kernels: setup  ## the gain of each fast kernel in whole training steps; writes benchmarks/
	@python benchmarks/kernels.py

bench-gpu: setup  ## training on a GPU, if there is one; writes benchmarks/h200.json
	@python benchmarks/gpu.py

bench-datasets: setup  ## every published format at full size, with generated values; writes benchmarks/datasets.json
	@python benchmarks/datasets.py

clean:  ## removes what make built, but not the data or the results
	@rm -rf .venv build site .pytest_cache .ruff_cache
