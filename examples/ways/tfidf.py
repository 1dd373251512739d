import json

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

with open("data/train.jsonl", encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
settings = {"analyzer": "char_wb", "ngram_range": (2, 4), "min_df": 2, "sublinear_tf": True}
vectorizer = TfidfVectorizer(**settings, dtype=np.float32)
features = vectorizer.fit_transform([row["text"] for row in rows])
linear = LogisticRegression(C=10, max_iter=300).fit(features, [row["label"] for row in rows])
np.savez("model.npz", settings=json.dumps(settings), terms=vectorizer.get_feature_names_out().astype(str),
         idf=vectorizer.idf_, labels=linear.classes_, weights=linear.coef_.astype(np.float32), bias=linear.intercept_)
