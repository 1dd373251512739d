"""What a checkpoint's masked-language-model head would write in place of each word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgebert.train.batches import Rows

PASSES = 7
"""Times a row is read, each time with every seventh word masked. Models are trained with 15 % of a text masked, so that
this is what they know; rows of up to seven words have one word masked at a time."""

LOGITS = 1 << 24
"""Most logits held at once: 64 MB in float32."""


def load_masked_lm(folder: Path) -> nn.Module | None:
    """The checkpoint with its masked-LM head, in eval mode, or None where its weights do not hold every tensor of it:
    sentence encoders and fine-tuned classifiers come without."""
    from transformers import AutoConfig, AutoModelForMaskedLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            return None
        model, report = AutoModelForMaskedLM.from_pretrained(folder, config=config, dtype=torch.float32,
                                                             use_safetensors=True, output_loading_info=True,
                                                             trust_remote_code=False)
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    return None if report["missing_keys"] else model.eval()


@torch.inference_mode()
def predicted_words(model: nn.Module, rows: Rows, words: np.ndarray, allowed: np.ndarray, mask_id: int, k: int,
                    tick: Callable[[int], None] = lambda rows: None) -> np.ndarray:
    """The k likeliest words for each place, likeliest first, the word that stands there left out (Jiao et al. 2020,
    Algorithm 1, which masks one word at a time).

    words: bool [N, L], the places; allowed: bool [V], what may be answered -> ids, int32 [places, k], in the order of
    np.nonzero(words). tick: rows finished since the last call.
    """
    found = np.zeros((int(words.sum()), k), np.int32)
    decoder = model.get_output_embeddings()  # half of a small model's work: done for the masked tokens alone
    place = np.cumsum(words).reshape(words.shape) - 1
    turn = np.where(words, (np.cumsum(words, 1) - 1) % PASSES, -1)
    closed = torch.from_numpy(~allowed)
    typed = rows.types is not None and getattr(model.config, "type_vocab_size", 0) > 1
    lengths = rows.mask.sum(1)
    order = np.argsort(lengths, kind="stable")
    size = max(1, LOGITS // (len(allowed) * (1 + int(lengths.max()) // PASSES)))
    for start in range(0, len(order), size):
        index = order[start : start + size]
        longest = int(lengths[index].max())
        ids, mask = (torch.from_numpy(values[index, :longest].astype(np.int64)) for values in (rows.ids, rows.mask))
        types = {"token_type_ids": torch.from_numpy(rows.types[index, :longest].astype(np.int64))} if typed else {}
        for number in range(int(turn[index].max()) + 1):
            now = torch.from_numpy(turn[index, :longest] == number)
            some = now.any(1)
            with decoder.register_forward_pre_hook(lambda _, inputs, chosen=now[some]: inputs[0][chosen]):
                logits = model(ids[some].masked_fill(now[some], mask_id), attention_mask=mask[some],
                               **{name: value[some] for name, value in types.items()}).logits
            logits = logits[:, : len(allowed)].masked_fill(closed, -torch.inf)
            logits.scatter_(1, ids[now][:, None], -torch.inf)
            found[place[index, :longest][now.numpy()]] = logits.topk(k).indices.numpy()
        tick(len(index))
    return found
