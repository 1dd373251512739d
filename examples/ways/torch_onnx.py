import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("teacher").eval()
tokenizer = AutoTokenizer.from_pretrained("teacher")
sample = tokenizer("a sentence to trace the model with", return_tensors="pt")
names = ["input_ids", "attention_mask"]
axes = {**{name: {0: "batch", 1: "length"} for name in names}, "logits": {0: "batch"}}
model.config.return_dict = False
torch.onnx.export(model, tuple(sample[name] for name in names), "raw.onnx", input_names=names, output_names=["logits"],
                  dynamic_axes=axes, dynamo=False)
