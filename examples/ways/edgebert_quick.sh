edgebert fit-device --profile x86-laptop --model teacher --data data --effort quick --runtime tflite --out bundle
