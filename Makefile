# `make sweep` trains the headline grid, `make test` runs every check, `make study` the
# whole study (DATA="data=image_folder data.path=FOLDER" names other images than
# torchvision's CIFAR-10).
# Both set up .venv first; that is repeated only when pyproject.toml changed.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: sweep test lint study clean

sweep: .venv/installed
	$(BIN)/python -m vae_sweep.run -m norm=zscore,minus1_1 head=tanh,linear

study: .venv/installed
	$(BIN)/python analysis/study.py $(DATA)

test: lint
	$(BIN)/python -m pytest

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
	rm -rf .venv runs
