"""Sentence embeddings from a smaller file: how near they stay to the checkpoint's own, by cosine.

    python examples/05_sentence_embeddings.py --out embeddings
    python examples/05_sentence_embeddings.py --model ./my-sentence-transformer --texts sentences.txt --keep 1 0.8 0.6

`edgebert fit-device` has no embedding task: its search judges a cut by a classifier's answers. What works is done here by
hand. Heads and neurons leave by the inverse Hessian of their inputs, which needs texts and no labels; the last layer's
states are the file's output, by a "classifier" that is the identity; the mean over the tokens, of length 1, is the
embedding, and left to the app. Every layer keeps the same share: nothing is searched, and nothing is trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import edgebert
from device_bench.runtimes import open_model
from edgebert.checkpoint import load_checkpoint, resolve
from edgebert.compress.moments import second_moments
from edgebert.compress.obs import operate, plan_surgery
from edgebert.demo import demo_model_folder, demo_task_folder
from edgebert.modeling import Encoder
from edgebert.tokenization import encode, load_tokenizer
from edgebert.train.batches import Rows, in_order
from exporters import EXPORTERS
from exporters.artifact import InputSpec, LayerPrecision, Precision


def encoder_of(folder: Path) -> Encoder:
    """The checkpoint's encoder, whose logits [B, L, hidden] are the last states."""
    width = int(load_checkpoint(folder).net.shape.hidden)
    net = load_checkpoint(folder, tuple(map(str, range(width))), kind="token_classification").net
    with torch.no_grad():
        net.classifier.weight.copy_(torch.eye(width))
        net.classifier.bias.zero_()
    return net


def pooled(states: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over real tokens, of length 1: [N, L, H], [N, L] -> [N, H]."""
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def narrowed(net: Encoder, rows: Rows, keep: float) -> Encoder:
    """Every layer with that share of its heads and neurons, the rest of each matrix brought up to date."""
    moments = second_moments(net, in_order(rows, 32), ("output", "down"))
    heads, neurons = plan_surgery(net, moments).order()
    stay_heads = tuple(tuple(sorted(order[: max(1, round(keep * len(order)))])) for order in heads)
    stay_neurons = tuple(tuple(sorted(order[: max(1, round(keep * len(order)))])) for order in neurons)
    layers = tuple(edgebert.LayerSpec(len(some), len(units)) for some, units in zip(stay_heads, stay_neurons))
    return operate(net, moments, edgebert.SubnetSpec(tuple(range(len(layers))), layers), stay_heads, stay_neurons)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a Hugging Face folder or hub id (default: all-MiniLM-L6-v2 of the extra `demo`)")
    parser.add_argument("--texts", type=Path, help="one text a line (default: SNIPS, which comes with edgebert)")
    parser.add_argument("--keep", type=float, nargs="+", default=[1.0, 0.75, 0.5], help="shares of heads and neurons")
    parser.add_argument("--length", type=int, default=32, help="tokens of a row")
    parser.add_argument("--profile", default="pixel6", help="the device that latencies are estimated for")
    parser.add_argument("--out", type=Path, default=Path("embeddings"), help="where the files go")
    parser.add_argument("--toy", action="store_true", help="48 texts and one share: to see that it works")
    given = parser.parse_args()

    folder = resolve(given.model) if given.model else demo_model_folder()
    if given.texts:
        texts = [line for line in given.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        known, asked = texts[::2], texts[1::2]  # every other text is only asked
    else:
        data = edgebert.load_dataset(demo_task_folder("snips"))
        known, asked = list(data.train.texts[:1024]), list(data.test.texts)
    keep = given.keep
    if given.toy:
        known, asked, keep = known[:32], asked[:16], [0.75]

    tokenizer, net, profile = load_tokenizer(folder), encoder_of(folder), edgebert.load_profile(given.profile)
    seen = encode(tokenizer, known, None, given.length)
    rows = Rows(seen.input_ids, seen.attention_mask, None, np.zeros(len(known), np.int64))
    judged = encode(tokenizer, asked, None, given.length)
    with torch.no_grad():
        ids, mask = (torch.from_numpy(values.astype(np.int64)) for values in (judged.input_ids, judged.attention_mask))
        truth = pooled(net(ids, mask, None).numpy(), judged.attention_mask)

    given.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(asked)} texts, int8 ONNX; latency: estimated for {profile.title}, {given.length} tokens, one thread")
    print("keep    MB      ms  cosine: mean   5th %   same nearest text")
    for share in keep:
        small = net if share == 1 else narrowed(net, rows, share)
        precision = Precision((LayerPrecision(),) * len(small.layers), "int8", "fp32")  # the identity stays exact
        path = given.out / f"embedding_{share:g}.onnx"
        made = EXPORTERS["onnx"](small, path, InputSpec((given.length,)), precision, {"kind": "sentence embedding"})
        session = open_model(path)
        found = []
        for row, real in zip(judged.input_ids, judged.attention_mask):
            count = int(real.sum())
            feeds = {"input_ids": row[None, :count], "attention_mask": real[None, :count]}
            found.append(pooled(session.run(feeds)["logits"], feeds["attention_mask"])[0])
        vectors = np.array(found)
        cosine = (vectors * truth).sum(1)
        nearest = [(each @ each.T - 2 * np.eye(len(each))).argmax(1) for each in (truth, vectors)]
        ms = edgebert.estimate(small.shape, precision, profile, "onnx", 1, given.length).latency_ms
        print(f"{share:<6g}{made.file_bytes / 1e6:5.1f}  {ms:6.2f}        {cosine.mean():.4f}  "
              f"{np.percentile(cosine, 5):.4f}   {(nearest[0] == nearest[1]).mean():.0%}")


if __name__ == "__main__":
    main()
