"""OpenVINO's files of one ONNX file, for bench_export.py; runs in the environment that has openvino and nncf.

    python examples/export_openvino.py raw.onnx calibration.npz OUT

calibration.npz: `ids` [N, L] and `count` [N], how many of a row are tokens.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino


def main(source: str, calibration: str, out: Path) -> None:
    openvino.save_model(openvino.convert_model(source), out / "f32.xml", compress_to_fp16=False)
    read = openvino.Core().read_model
    openvino.save_model(nncf.compress_weights(read(out / "f32.xml")), out / "weights.xml", compress_to_fp16=False)
    with np.load(calibration) as data:
        rows = [{"input_ids": ids[None, :count].astype(np.int64), "attention_mask": np.ones((1, count), np.int64)}
                for ids, count in zip(data["ids"], data["count"])]
    quantised = nncf.quantize(read(out / "f32.xml"), nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER,
                              subset_size=len(rows))
    openvino.save_model(quantised, out / "ptq.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
