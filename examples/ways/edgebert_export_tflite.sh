edgebert export teacher --runtime tflite --out bundle
