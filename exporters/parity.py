"""Proof that a file computes what the network computes: token ids, logits, and the task's metric.

Each comparison gives a `Check`; a `Parity` is all of them; `require` raises where one failed. Files are
opened through `device_bench.runtimes`, as on a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from device_bench.runtimes import Session, open_model
from exporters.artifact import Artifact

if TYPE_CHECKING:
    from torch import nn

MIN_SPREAD = 0.5
"""How much a file's logits must vary between rows, as a share of how much the network's do."""
CONSTANT_SHARE = 0.5
"""relative_rmse divides by at least this share of the logits' root mean square."""
ONNX_LENGTHS = (1, 2, 3, 5, 8, 13, 31, 64, 127, 256, 511)
ONNX_BATCH = 16


@dataclass(frozen=True)
class Check:
    """One comparison. kind: "ids", "logits" or "metric". rows: how many inputs were compared. value, bound:
    what was measured and its limit (an upper one, but for the check "logits vary")."""

    name: str
    kind: str
    rows: int
    value: float
    bound: float
    ok: bool
    detail: str


@dataclass(frozen=True)
class Parity:
    """All checks of one file."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a value that is not finite becomes null."""
        checks = [asdict(c) | {"value": c.value if math.isfinite(c.value) else None} for c in self.checks]
        return {"ok": self.ok, "checks": checks}

    def table(self) -> list[tuple[str, ...]]:
        """A header and one row per check, as text."""
        head = ("check", "rows", "value", "bound", "result", "what was compared")
        return [head, *((c.name, str(c.rows), f"{c.value:.3g}", f"{c.bound:.3g}",
                         "ok" if c.ok else "FAILED", c.detail) for c in self.checks)]


class ParityError(RuntimeError):
    """A file differs from its network; `parity` says where."""

    exit_code = 4
    code = "EB-PARITY"

    def __init__(self, parity: Parity) -> None:
        failed = "; ".join(f"{c.name} ({c.value:.3g}, bound {c.bound:.3g}: {c.detail})"
                           for c in parity.checks if not c.ok)
        super().__init__(f"the exported file does not equal its PyTorch original: {failed}")
        self.parity = parity


def require(parity: Parity) -> None:
    """Raises ParityError naming the failed checks."""
    if not parity.ok:
        raise ParityError(parity)


def check_ids(texts: Sequence[str], packaged: Callable[..., list[int]], reference: Callable[..., list[int]],
              pairs: Sequence[tuple[str, str]] | None = None) -> Check:
    """Token ids of two tokenizers, equal to the last one. Each is called with one text, and with two for
    `pairs`."""
    inputs = [(text,) for text in texts] + list(pairs or ())
    differ = [one for one in inputs if list(packaged(*one)) != list(reference(*one))]
    detail = "token ids, packaged tokenizer against reference"
    if differ:
        detail = f"first difference: {', '.join(map(repr, differ[0]))}"
    ok = bool(inputs) and not differ
    return Check("token ids", "ids", len(inputs), float(len(differ)), 0.0, ok, detail)


def check_metric(name: str, file_value: float, student_value: float, teacher_value: float, max_gap: float) -> Check:
    """The task metric of the file against that of the torch network it was made from; the teacher's is for
    the reader. All three and max_gap are in the metric's own unit."""
    gap = abs(file_value - student_value)
    detail = f"file {file_value:.4f}, torch student {student_value:.4f}, teacher {teacher_value:.4f}"
    return Check(name, "metric", 1, gap, max_gap, gap <= max_gap, detail)


class Case(NamedTuple):
    """A batch of one width: ids, mask and types are int32 [N, width]."""

    ids: np.ndarray
    mask: np.ndarray
    types: np.ndarray

    def rows(self) -> list[Case]:
        return [Case(*(value[i: i + 1] for value in self)) for i in range(len(self.ids))]


def check_logits(artifact: Artifact, net: nn.Module, ids: np.ndarray, mask: np.ndarray,
                 token_types: np.ndarray | None = None, fp32_bound: float = 1e-5, int8_bound: float = 0.25,
                 threads: int = 1, session: Session | None = None) -> tuple[Check, ...]:
    """The file's logits against the network's (float32, no dropout) on real rows, laid out in every way a
    caller may. Of logits for every token, those of the real tokens are compared.

    The rows are fed padded on the right, padded on the left, and with tokens spread between masked random
    ids; then cut to each length of a TFLite file, or to lengths from 1 to the largest of an ONNX one of any length, which
    is also run with all rows in one batch, and the file's logits must vary from row to row.

    A file that is fp32 throughout is held to max |file - torch| <= fp32_bound * max(1, max |torch|); any
    other to relative_rmse <= int8_bound. 8-bit rounding alone gives 0.11 to 0.23 on a six-layer MiniLM; an
    ignored mask or shifted positions give 0.4 to 1.2. A single lost head hides in the rounding: only an fp32
    file shows it, so check one from the same exporter too.

    Args:
        ids, mask, token_types: integers [N, L], real rows padded on the right, at least two different ones.
        session: what runs the file, where `device_bench` does not.

    Raises ValueError: fewer than two different rows; BenchError: the file cannot be opened.
    """
    rows = _real_rows(ids, mask, token_types)
    if len({row[0].tobytes() for row in rows}) < 2:
        raise ValueError("parity needs at least two different rows")
    session = session or open_model(artifact.path, threads=threads, point=artifact.point)
    bound = fp32_bound if artifact.precision == "fp32" else int8_bound
    filler = np.random.default_rng(0)

    def compare(name: str, cases: list[Case], about: str, batched: bool = False) -> tuple[Check, np.ndarray, np.ndarray]:
        types = artifact.inputs.token_types
        found = np.concatenate([_answers(_run(session, case, batched), case) for case in cases])
        truth = np.concatenate([_answers(_torch_logits(net, case, types), case) for case in cases])
        value = scaled_error(found, truth) if artifact.precision == "fp32" else relative_rmse(found, truth)
        unit = "max |file - torch|" if artifact.precision == "fp32" else "relative RMSE"
        count = sum(len(case.ids) for case in cases)
        check = Check(name, "logits", count, value, bound, bool(value <= bound), f"{unit}, {about}")
        return check, found, truth

    width = _padded_width(artifact, max(len(row[0]) for row in rows))
    vocabulary = net.word.num_embeddings
    right, left, interior = (_lay_out(rows, width, where, vocabulary, filler)
                             for where in ("right", "left", "interior"))
    lengths = _lengths(artifact)
    sweep = [_cut(rows, length) for length in lengths]
    plain, found, truth = compare("logits, right padding", [right], f"width {width}")
    checks = [plain,
              compare("logits, left padding", [left], f"width {width}")[0],
              compare("logits, interior padding", [interior], f"width {width}, masked random ids")[0],
              compare("logits, lengths", sweep, f"lengths {', '.join(map(str, lengths))}")[0]]
    if artifact.any_length:
        checks.append(compare("logits, one batch", [right], f"{len(rows)} rows at once", batched=True)[0])
    return (*checks, _check_spread(found, truth, len(rows)))


def scaled_error(found: np.ndarray, truth: np.ndarray) -> float:
    """max |found - truth| / max(1, max |truth|)."""
    return float(np.abs(found - truth).max() / max(1.0, float(np.abs(truth).max())))


def relative_rmse(found: np.ndarray, truth: np.ndarray) -> float:
    """Logits [answers, labels]: the root mean square of found - truth over that of truth minus its mean row, so
    that what all rows share does not hide an error. Where the rows hardly differ (an untrained classifier)
    the divisor would vanish: it is at least CONSTANT_SHARE of the root mean square of truth itself."""
    divisor = max(_rms(truth - truth.mean(axis=0)), CONSTANT_SHARE * _rms(truth))
    return _rms(found - truth) / divisor if divisor > 0 else math.inf


def logits_of(artifact: Artifact, ids: np.ndarray, mask: np.ndarray, token_types: np.ndarray | None = None,
              threads: int = 1) -> np.ndarray:
    """The file's logits, float32 [N, labels], for rows padded on the right, each without its padding; of a file that
    answers for every token [N, L, labels], 0 where the mask [N, L] has ended.

    A file of fixed lengths runs each row at its smallest length that fits. An ONNX fp32 file runs batches of equal
    length; any other ONNX file row by row, as on a device, because 8-bit scales depend on the whole batch.

    Raises:
        ValueError: a row is longer than the file takes.
    """
    session = open_model(artifact.path, threads=threads, point=artifact.point)
    rows = _real_rows(ids, mask, token_types)
    longest = max(len(row[0]) for row in rows)
    if longest > artifact.inputs.max_length:
        raise ValueError(f"a row has {longest} tokens but {artifact.path.name} takes "
                         f"{artifact.inputs.max_length}; truncate when tokenizing")
    by_width: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_width.setdefault(_smallest_length(artifact, len(row[0])), []).append(index)
    batched = artifact.any_length and artifact.precision == "fp32"
    step = ONNX_BATCH if batched else 1
    found: dict[int, np.ndarray] = {}
    for width, members in sorted(by_width.items()):
        for start in range(0, len(members), step):
            chosen = members[start: start + step]
            case = _cut([rows[index] for index in chosen], width)
            found.update(zip(chosen, _run(session, case, batched)))
    if found[0].ndim == 1:
        return np.stack([found[index] for index in range(len(rows))])
    out = np.zeros((*mask.shape, found[0].shape[-1]), np.float32)
    for index, row in enumerate(rows):
        out[index, : len(row[0])] = found[index][: len(row[0])]
    return out


def _real_rows(ids: np.ndarray, mask: np.ndarray, token_types: np.ndarray | None) -> list[tuple]:
    """[(ids, types)] of each row up to its last unmasked token (at least one)."""
    types = np.zeros_like(ids) if token_types is None else token_types
    ends = [max(1, int(np.flatnonzero(row).max(initial=0)) + 1) for row in mask]
    return [(np.asarray(ids[i][:end], np.int32), np.asarray(types[i][:end], np.int32))
            for i, end in enumerate(ends)]


def _lengths(artifact: Artifact) -> tuple[int, ...]:
    if not artifact.any_length:
        return artifact.inputs.lengths
    longest = artifact.inputs.max_length
    return (*(length for length in ONNX_LENGTHS if length < longest), longest)


def _smallest_length(artifact: Artifact, tokens: int) -> int:
    if artifact.any_length:
        return tokens
    return next(length for length in artifact.inputs.lengths if length >= tokens)


def _padded_width(artifact: Artifact, longest: int) -> int:
    """A width that leaves room for padding, where the file has one."""
    wanted = min(longest + longest // 2 + 2, artifact.inputs.max_length)
    return _smallest_length(artifact, wanted)


def _cut(rows: list[tuple], width: int) -> Case:
    """Rows cut or padded with zeros on the right to one width."""
    case = _blank(len(rows), width)
    for i, row in enumerate(rows):
        tokens = min(len(row[0]), width)
        case.ids[i, :tokens], case.types[i, :tokens] = row[0][:tokens], row[1][:tokens]
        case.mask[i, :tokens] = 1
    return case


def _lay_out(rows: list[tuple], width: int, where: str, vocabulary: int, random: np.random.Generator) -> Case:
    """Rows in a wider batch, at most three quarters of it real tokens."""
    case = _blank(len(rows), width)
    if where == "interior":
        case.ids[:] = random.integers(0, vocabulary, case.ids.shape)
    for i, row in enumerate(rows):
        tokens = min(len(row[0]), max(1, width * 3 // 4))
        places = {"right": np.arange(tokens), "left": np.arange(width - tokens, width),
                  "interior": np.sort(random.choice(width, tokens, replace=False))}[where]
        case.ids[i, places], case.types[i, places] = row[0][:tokens], row[1][:tokens]
        case.mask[i, places] = 1
    return case


def _blank(count: int, width: int) -> Case:
    return Case(*(np.zeros((count, width), np.int32) for _ in range(3)))


def _answers(logits: np.ndarray, case: Case) -> np.ndarray:
    """The logits that mean something, [answers, labels]: all of [N, labels], the real tokens' of [N, L, labels]."""
    return logits if logits.ndim == 2 else logits[case.mask == 1]


def _run(session: Session, case: Case, batched: bool) -> np.ndarray:
    """The file's logits for rows of one width, in one batch or row by row."""
    def feeds(one: Case) -> dict[str, np.ndarray]:
        named = {"input_ids": one.ids, "attention_mask": one.mask, "token_type_ids": one.types}
        return {spec.name: named[spec.name].astype(spec.dtype) for spec in session.inputs}

    parts = [case] if batched else case.rows()
    return np.concatenate([session.run(feeds(part))["logits"] for part in parts])


def _torch_logits(net: nn.Module, case: Case, with_types: bool) -> np.ndarray:
    import torch

    training = net.training
    net.eval()
    try:
        with torch.inference_mode():
            ids, mask, types = (torch.from_numpy(value).long() for value in case)
            return net(ids, mask, types if with_types else None).float().numpy()
    finally:
        net.train(training)


def _check_spread(found: np.ndarray, truth: np.ndarray, rows: int) -> Check:
    """Files that answer zeros, NaN or always the same: TFLite runtimes have done so without an error."""
    expected, spread = _rms(truth - truth.mean(axis=0)), _rms(found - found.mean(axis=0))
    value = spread / expected if expected > 0 else math.nan
    if not np.isfinite(found).all():
        detail = "the file answers NaN or infinity"
    elif not found.any():
        detail = "the file answers zeros only"
    elif expected == 0:
        detail = "the network itself gives every row the same logits"
    else:
        detail = "spread of logits between rows, file / torch (at least)"
    return Check("logits vary", "logits", rows, value, MIN_SPREAD, bool(value >= MIN_SPREAD), detail)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
