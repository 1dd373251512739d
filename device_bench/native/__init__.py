"""A small C program that times ONNX files where there is no Python; `python -m device_bench.native.build` builds it."""
