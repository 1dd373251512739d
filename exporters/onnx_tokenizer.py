"""An ONNX file with BERT's tokenizer in the graph: one text in, logits out.

The operator is BertTokenizer of onnxruntime-extensions, which every runtime session has to register. It follows Hugging
Face on ASCII without literal special tokens, and often not beyond: whoever writes such a file must compare the ids on the
texts that it is for (`text_ids` reads them off the file).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.artifact import ExportError

if TYPE_CHECKING:
    import onnxruntime

DOMAIN = "ai.onnx.contrib"
TEXT, IDS = "text", "token_ids"
_PREFIX = "tokenizer/"


def add_tokenizer(model: Path, out: Path, tokenizer: Mapping[str, Any], length: int) -> None:
    """Writes `model` with the tokenizer before it. Inputs: "text", strings [1]. Outputs: "logits" as before, and
    "token_ids" int64 [L], L at most `length`.

    tokenizer: vocab_file (the content of vocab.txt), unk_token, sep_token, pad_token, cls_token, mask_token,
    suffix_indicator, and 0 or 1 for do_lower_case, strip_accents, tokenize_chinese_chars. Raises ExportError for a model
    whose rows have a fixed length, and where onnx is missing.
    """
    try:
        import onnx
        from onnx import TensorProto, compose, helper
    except ImportError as error:
        raise ExportError(f"this needs {error.name}; install the onnx extra: pip install 'edgebert[onnx]'") from error
    encoder = onnx.load(model)
    inputs = {one.name: one.type.tensor_type for one in encoder.graph.input}
    if any(one.shape.dim[1].dim_value for one in inputs.values()):
        raise ExportError("a tokenizer in the graph needs rows of any length; leave --onnx-fixed out")
    made = {"input_ids": IDS, "attention_mask": f"{_PREFIX}mask", "token_type_ids": f"{_PREFIX}types"}
    nodes = [helper.make_node("BertTokenizer", [TEXT], [IDS, made["token_type_ids"], made["attention_mask"]],
                              domain=DOMAIN, max_length=length, truncation_strategy_name="longest_first",
                              do_basic_tokenize=1, **tokenizer)]
    for name, kind in inputs.items():
        nodes.append(helper.make_node("Cast", [made[name]], [f"{_PREFIX}{name}/flat"], to=kind.elem_type))
        nodes.append(helper.make_node("Unsqueeze", [f"{_PREFIX}{name}/flat", f"{_PREFIX}axis"], [f"{_PREFIX}{name}"]))
    graph = helper.make_graph(
        nodes, "tokenizer", [helper.make_tensor_value_info(TEXT, TensorProto.STRING, [1])],
        [helper.make_tensor_value_info(f"{_PREFIX}{name}", kind.elem_type, [1, None]) for name, kind in inputs.items()]
        + [helper.make_tensor_value_info(IDS, TensorProto.INT64, [None])],
        [helper.make_tensor(f"{_PREFIX}axis", TensorProto.INT64, [1], [0])])
    own = [opset for opset in encoder.opset_import if opset.domain in ("", "ai.onnx")]
    head = helper.make_model(graph, opset_imports=[*own, helper.make_opsetid(DOMAIN, 1)], ir_version=encoder.ir_version)
    whole = compose.merge_models(head, encoder, [(f"{_PREFIX}{name}", name) for name in inputs])
    partial = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        onnx.save(whole, partial)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def open_with_tokenizer(path: Path) -> onnxruntime.InferenceSession:
    """Raises ExportError where onnxruntime-extensions is missing, or does not start with the model."""
    try:
        import onnxruntime
        from onnxruntime_extensions import get_library_path
    except ImportError as error:
        raise ExportError(f"a tokenizer in the graph needs {error.name}; "
                          "install the extra for it: pip install 'edgebert[onnx,tokenizer]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(get_library_path())
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen unrelated exception classes
        raise ExportError(f"{path.name}: onnxruntime {onnxruntime.__version__} refuses the tokenizer in the graph: "
                          f"{' '.join(str(error).split())[:300]}") from error


def text_ids(session: onnxruntime.InferenceSession) -> Callable[[str], list[int]]:
    """The function from a text to the ids that the graph gives it; none for a text that it cannot read."""
    import numpy as np

    def ids(text: str) -> list[int]:
        try:
            return session.run([IDS], {TEXT: np.array([text])})[0].tolist()
        except Exception:  # the operator raises for texts that are not what it takes for UTF-8
            return []

    return ids
