import json

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from textpruner import TransformerPruner, TransformerPruningConfig
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("teacher").eval()
tokenizer = AutoTokenizer.from_pretrained("teacher")
with open("data/train.jsonl", encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines][::30]


def batch_of(rows):
    texts = tokenizer([row["text"] for row in rows], padding=True, truncation=True, return_tensors="pt")
    return {**texts, "labels": torch.tensor([model.config.label2id[row["label"]] for row in rows])}


wanted = TransformerPruningConfig(target_ffn_size=616, target_num_of_heads=5, pruning_method="iterative", n_iters=4)
TransformerPruner(model, wanted).prune(DataLoader(rows, batch_size=32, collate_fn=batch_of), save_model=False)
names = ["input_ids", "attention_mask"]
sample = tokenizer("a sentence to trace the model with", return_tensors="pt")
axes = {**{name: {0: "batch", 1: "length"} for name in names}, "logits": {0: "batch"}}
torch.onnx.export(model, tuple(sample[name] for name in names), "raw.onnx", input_names=names,
                  output_names=["logits"], dynamic_axes=axes, dynamo=False)
quantize_dynamic("raw.onnx", "model.onnx", weight_type=QuantType.QInt8)
