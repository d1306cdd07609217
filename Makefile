# `make sweep` trains the headline grid; `make test` runs every check of seconds (in three
# processes of one thread, so that on two cores one works where another waits), `make long`
# those of minutes (kills, notebooks), `make browser` those that open pages in Chromium, `make
# slurm` those on a real Slurm (whose packages it installs where it can: root, apt-get), `make
# quick` the fast ones, `make test-lowest` these with the lowest versions that pyproject.toml
# states, `make coverage` says what the tests cover; `make survival` repeats kills, odd configs
# and damage for an hour (results in tests/README.md). `make docs` builds the site, `make
# release-check` installs what would be released. `make study` is the whole study
# (CIFAR="data=image_folder data.path=FOLDER" and MNIST="data=npz data.path=FILE" name other
# places than torchvision's downloads, CIFAR_NAME and MNIST_NAME what captions call them).
# All set up .venv first; that is repeated only when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
BIN = .venv/bin
SECONDS_EACH = not browser and not long and not slurm
quoted = $(if $($(1)),'$(subst ','\'',$($(1)))')  # a variable, for the shell

.PHONY: sweep test quick long browser slurm lint docs coverage test-lowest release-check
.PHONY: survival study clean

sweep: .venv/installed
	$(BIN)/python -m vae_sweep.run -m norm=zscore,minus1_1 head=tanh,linear

study: .venv/installed
	PYTHONPATH=analysis $(BIN)/python -m study.make \
	  $(if $(CIFAR),--place cifar10 $(call quoted,CIFAR) $(call quoted,CIFAR_NAME)) \
	  $(if $(MNIST),--place mnist $(call quoted,MNIST) $(call quoted,MNIST_NAME)) \
	  -- $(OPTIONS)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder \
	  -m "$(SECONDS_EACH)"

quick: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile \
	  -m "not slow and $(SECONDS_EACH)"

long: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile -m long

browser: .venv/installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m browser

slurm: .venv/installed
	$(BIN)/python tests/slurm/cluster.py --install
	$(BIN)/python -m pytest -q -m slurm

survival: .venv/installed
	$(BIN)/python -m tests.survival --kills 150 --seed 0 --readme tests/README.md
	$(BIN)/python -m tests.survival.together --sweeps 16 --seed 0
	$(BIN)/python tests/odd_configs.py --odd-configs 3000 --through-command 100 \
	  --readme tests/README.md
	$(BIN)/python tests/damage.py --readme tests/README.md

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright

docs: .venv/installed
	$(BIN)/python -m sphinx -q -E -W --keep-going -c docs . build/site
	@echo "the site: build/site/index.html"

# TESTS chooses others: make coverage TESTS="tests/vae -m 'not slow'"
TESTS = -m "$(SECONDS_EACH)"
coverage: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --cov \
	  --cov-report=term:skip-covered $(TESTS)

# Older versions of dependencies warn of newer ones of theirs, which are no errors here.
test-lowest: .lowest/installed
	PATH="$(CURDIR)/.lowest/bin:$$PATH" OMP_NUM_THREADS=1 .lowest/bin/python -m pytest -q -n 2 \
	  --dist loadfile -W default -m "not slow and $(SECONDS_EACH)"

.lowest/installed: pyproject.toml .venv/installed
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .lowest
	$(BIN)/uv pip install --quiet --python .lowest/bin/python \
	  --resolution lowest-direct -e '.[dev]'
	touch $@

release-check: .venv/installed
	$(BIN)/python tests/release.py

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .lowest build runs .survival
