"""Makes the tiny model that `edgebert doctor` runs: random weights, int8 per channel, and the logits torch gives for it.

    python examples/make_doctor_model.py --out edgebert/golden
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from edgebert.bundle import golden
from edgebert.modeling import Encoder
from edgebert.spec import EncoderShape, LayerSpec
from exporters import EXPORTERS
from exporters.artifact import InputSpec, Precision
from exporters.parity import logits_of, relative_rmse

SHAPE = EncoderShape(hidden=64, head_dim=16, vocab=96, positions=16, token_types=2, labels=5,
                     layers=(LayerSpec(4, 128), LayerSpec(2, 64)))
LENGTH, ROWS = 16, 8
ROOM = 2.0
"""The bound is so many times what the runtime is off here; processors and versions round otherwise."""


def network() -> Encoder:
    torch.manual_seed(0)
    net = Encoder(SHAPE).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    net, random = network(), np.random.default_rng(0)
    ids = random.integers(5, SHAPE.vocab, (ROWS, LENGTH)).astype(np.int32)
    mask = (np.arange(LENGTH) < random.integers(4, LENGTH + 1, ROWS)[:, None]).astype(np.int32)
    ids *= mask
    with torch.no_grad():
        truth = net(torch.from_numpy(ids).long(), torch.from_numpy(mask).long(), None).numpy()
    bounds = {}
    for form, export in EXPORTERS.items():
        artifact = export(net, out / f"model_qint8.{form}", InputSpec((LENGTH,)), Precision.uniform("int8", 2))
        off = relative_rmse(logits_of(artifact, ids, mask), truth)
        bounds[artifact.path.name] = max(0.05, round(ROOM * off, 3))
        print(f"{artifact.path.name}: {artifact.file_bytes / 1e3:.0f} kB, relative RMSE {off:.3f}")
    texts = [f"row {number}" for number in range(ROWS)]
    (out / "golden.json").write_text(golden(texts, None, ids, mask, None, truth, bounds), encoding="utf-8")


if __name__ == "__main__":
    main()
