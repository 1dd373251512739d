edgebert export teacher --runtime onnx --out bundle
