import json

import litert_torch
import torch
from ai_edge_quantizer import quantizer, recipe
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Logits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained("teacher").eval()

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


tokenizer = AutoTokenizer.from_pretrained("teacher")
with open("data/train.jsonl", encoding="utf-8") as lines:
    length = max(len(tokenizer(json.loads(line)["text"]).input_ids) for line in lines)
sample = {name: torch.ones(1, length, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
litert_torch.convert(Logits().eval(), sample_kwargs=sample).export("fp32.tflite")
small = quantizer.Quantizer("fp32.tflite", recipe.dynamic_wi8_afp32()).quantize()
with open("model.tflite", "wb") as file:
    file.write(small.quantized_model)
