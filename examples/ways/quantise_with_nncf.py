import json

import nncf
import numpy as np
import openvino
from tokenizers import Tokenizer

with open("data/train.jsonl", encoding="utf-8") as lines:
    texts = [json.loads(line)["text"] for line in lines][::50]
tokenizer = Tokenizer.from_file("teacher/tokenizer.json")
tokenizer.no_padding()
rows = []
for text in texts:
    ids = np.array([tokenizer.encode(text).ids], np.int64)
    rows.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
model = openvino.convert_model("raw.onnx")
quantised = nncf.quantize(model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER)
openvino.save_model(quantised, "model.xml", compress_to_fp16=False)
