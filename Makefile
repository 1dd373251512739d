# Two commands: `make fit` makes a bundle from the embedded default, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: fit test bench device-lab clean

fit: $(VENV)/.all
	$(BIN)/edgebert fit-device --profile pixel6 --out edgebert-bundle --overwrite

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadscope

$(VENV)/.all: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.all

bench: $(VENV)/.all
	$(BIN)/python examples/benchmark.py

# An emulated arm64 machine behind sshd and adbd, for tests without hardware; as root on Debian it installs what it needs.
device-lab: $(VENV)/.dev
	$(BIN)/python -m tests.lab build

clean:
	rm -rf $(VENV) edgebert-bundle
