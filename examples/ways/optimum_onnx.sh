optimum-cli export onnx --model teacher --task text-classification raw
optimum-cli onnxruntime quantize --onnx_model raw --avx512_vnni -o .
