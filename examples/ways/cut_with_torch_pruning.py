import torch
import torch_pruning as tp
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.bert.modeling_bert import BertSelfAttention

model = AutoModelForSequenceClassification.from_pretrained("teacher").eval()
tokenizer = AutoTokenizer.from_pretrained("teacher")
sample = dict(tokenizer("a sentence to trace the model with", return_tensors="pt"))
attention = [module for module in model.modules() if isinstance(module, BertSelfAttention)]
pruner = tp.pruner.BasePruner(
    model, sample, importance=tp.importance.MagnitudeImportance(p=2, group_reduction="mean"), global_pruning=True,
    pruning_ratio=0.5, head_pruning_ratio=0.5, prune_num_heads=True, prune_head_dims=False,
    num_heads={part: one.num_attention_heads for one in attention for part in (one.query, one.key, one.value)},
    output_transform=lambda output: output.logits.sum(), ignored_layers=[model.classifier, model.bert.pooler])
pruner.step()
for one in attention:
    one.num_attention_heads = pruner.num_heads[one.query]
    one.attention_head_size = one.query.out_features // one.num_attention_heads
    one.all_head_size = one.query.out_features
names = ["input_ids", "attention_mask"]
axes = {**{name: {0: "batch", 1: "length"} for name in names}, "logits": {0: "batch"}}
torch.onnx.export(model, tuple(sample[name] for name in names), "raw.onnx", input_names=names,
                  output_names=["logits"], dynamic_axes=axes, dynamo=False)
quantize_dynamic("raw.onnx", "model.onnx", weight_type=QuantType.QInt8)
