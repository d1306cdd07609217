# `make sweep` trains the headline grid, `make test` runs every check (in three processes of
# one thread, so that on two cores one works where another waits), `make quick` those that
# together end in a minute, `make browser` those that open pages in Chromium, `make survival`
# the long ones (an hour: kills, odd configs, damaged files; results in tests/README.md),
# `make study` the whole study (CIFAR="data=image_folder data.path=FOLDER" and MNIST="data=npz
# data.path=FILE" name other places than torchvision's downloads, CIFAR_NAME and MNIST_NAME
# what captions call them).
# All set up .venv first; that is repeated only when pyproject.toml changed.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: sweep test quick browser lint survival study clean

sweep: .venv/installed
	$(BIN)/python -m vae_sweep.run -m norm=zscore,minus1_1 head=tanh,linear

study: .venv/installed
	PYTHONPATH=analysis $(BIN)/python -m study.make \
	  $(if $(CIFAR),--place cifar10 "$(CIFAR)" $(if $(CIFAR_NAME),"$(CIFAR_NAME)")) \
	  $(if $(MNIST),--place mnist "$(MNIST)" $(if $(MNIST_NAME),"$(MNIST_NAME)")) \
	  -- $(OPTIONS)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder \
	  -m "not browser"

quick: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not browser"

browser: .venv/installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m browser

survival: .venv/installed
	$(BIN)/python -m tests.survival --kills 150 --seed 0 --readme tests/README.md
	$(BIN)/python -m tests.survival.together --sweeps 16 --seed 0
	$(BIN)/python tests/odd_configs.py --odd-configs 3000 --through-command 100 \
	  --readme tests/README.md
	$(BIN)/python tests/damage.py --readme tests/README.md

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs .survival
