import json

from model2vec.distill import distill
from model2vec.train import StaticModelForClassification

with open("data/train.jsonl", encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
classifier = StaticModelForClassification.from_static_model(model=distill("teacher"))
classifier.fit([row["text"] for row in rows], [row["label"] for row in rows])
classifier.to_pipeline().save_pretrained("model")
