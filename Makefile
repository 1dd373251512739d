# Two commands: `make fit` makes a bundle from the embedded default, `make test` runs the tests. `make test-all` runs the
# slow ones too, which train and convert whole models.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: fit test test-all docs bench bench-export bench-peers device-lab peers sample-tools clean

fit: $(VENV)/.all
	$(BIN)/edgebert fit-device --profile pixel6 --out edgebert-bundle --overwrite

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadscope -m "not slow"

test-all: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder

$(VENV)/.all: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.all

# The site, into site/: opens from the folder, asks no other host for anything.
docs: $(VENV)/.dev
	$(BIN)/python examples/make_reference.py --check
	$(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.all
	$(BIN)/python examples/benchmark.py

# An emulated arm64 machine behind sshd and adbd, for tests without hardware; as root on Debian it installs what it needs.
device-lab: $(VENV)/.dev
	$(BIN)/python -m tests.lab build

# What the tests run our files in: optimum-onnx, tflite-runtime 2.14, tflite-support, MediaPipe, onnxruntime-node and -web.
peers: $(VENV)/.dev
	$(BIN)/python -m tests.peers build optimum-onnx tflite214 tflite-support mediapipe node

# Our files beside those of torch.onnx, onnxruntime, optimum, OpenVINO, litert-torch and torch itself.
bench-export: $(VENV)/.dev
	$(BIN)/python -m tests.peers build optimum-onnx openvino
	$(BIN)/python examples/bench_export.py --out bench-export.jsonl
	$(BIN)/python examples/bench_export.py --out bench-export.jsonl --picture bench-export.svg

# edgebert beside optimum-onnx, OpenVINO, litert-torch, Torch-Pruning, TextPruner, model2vec and TF-IDF.
bench-peers: $(VENV)/.dev
	$(BIN)/python -m tests.peers build optimum-onnx openvino torch-pruning textpruner model2vec
	$(BIN)/python examples/bench_peers.py --out bench-peers.jsonl
	$(BIN)/python examples/bench_peers.py --out bench-peers.jsonl --table --picture bench-peers.svg

# A Kotlin compiler and ONNX Runtime for Java and C++, for the tests of the bundle's samples.
sample-tools: $(VENV)/.dev
	$(BIN)/python -m tests.sample_tools

clean:
	rm -rf $(VENV) edgebert-bundle site
