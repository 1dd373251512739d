"""The compression plan: what to keep of each layer, in which precision, and why. A file a person can read and edit."""

from __future__ import annotations

import json
import math
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from device_bench.strict_json import strict_json
from edgebert.cost import Estimate
from edgebert.device import RUNTIMES, Budget
from edgebert.errors import UsageError
from edgebert.knapsack import Bound
from edgebert.spec import MATRICES, MOST_LAYERS, MOST_UNITS, EncoderShape, LayerSpec, SubnetSpec, input_lengths
from exporters.artifact import LayerPrecision, Precision

SCHEMA = 1

GIVEN = "given"
"""What the bound of a plan says that nobody searched: it was written or edited by hand."""


@dataclass(frozen=True)
class CompressionPlan:
    """What to build from a source model for a device.

    subnet: kept layers and their widths. kept_heads, kept_neurons: per kept layer, increasing source indices.
    lengths: the sequence lengths that a TFLite file has signatures for; every file takes inputs up to the last one.
    predicted_error: the additive model's sum, in the error tables' metric. provenance: what the plan was made from.
    """

    subnet: SubnetSpec
    source: EncoderShape
    kept_heads: tuple[tuple[int, ...], ...]
    kept_neurons: tuple[tuple[int, ...], ...]
    precision: Precision
    runtime: str
    threads: int
    lengths: tuple[int, ...]
    profile: str
    budget: Budget
    estimate: Estimate
    predicted_error: float
    bound: Bound
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.subnet.shape(self.source)
        count = len(self.subnet.kept)
        for name, found in (("kept_heads", self.kept_heads), ("kept_neurons", self.kept_neurons),
                            ("precision", self.precision.layers)):
            if len(found) != count:
                raise UsageError(f"plan: {name} covers {len(found)} layers, kept are {count}")
        for index, spec, heads, neurons in zip(self.subnet.kept, self.subnet.layers, self.kept_heads,
                                               self.kept_neurons):
            whole = self.source.layers[index]
            _check_indices(heads, spec.heads, whole.heads, f"layer {index}: kept_heads")
            _check_indices(neurons, spec.ffn, whole.ffn, f"layer {index}: kept_neurons")
        if self.runtime not in RUNTIMES:
            raise UsageError(f"plan: runtime '{self.runtime}' is not known, choose from {', '.join(RUNTIMES)}")
        if self.threads < 1:
            raise UsageError(f"plan: threads must be at least 1, got {self.threads}")
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise UsageError(f"plan: lengths must be increasing, got {list(self.lengths)}")
        for length in self.lengths:
            if not 2 <= length <= self.source.positions:
                raise UsageError(f"plan: lengths must be 2 to {self.source.positions}, got {length}")

    @property
    def length(self) -> int:
        """The longest input, which the latency budget is for."""
        return self.lengths[-1]

    @property
    def shorter(self) -> tuple[int, ...]:
        """The other lengths."""
        return self.lengths[:-1]

    @property
    def searched(self) -> bool:
        """Whether the bound is a solver's."""
        return self.bound.minimised != GIVEN

    @property
    def refined(self) -> bool:
        """Whether it was taken because it answered better than the additive optimum; its error is above the bound."""
        return self.provenance.get("refined", "").startswith("used")

    @property
    def shape(self) -> EncoderShape:
        """Shape of the model the plan asks for."""
        return self.subnet.shape(self.source)

    def dumps(self) -> str:
        """The plan as text; `loads` gives back an equal plan."""
        layers = [{"layer": index, "heads": spec.heads, "ffn": spec.ffn, "attention_precision": choice.attention,
                   "ffn_precision": choice.ffn, "kept_heads": to_ranges(heads), "kept_neurons": to_ranges(neurons),
                   **({"qk_dim": spec.qk_dim} if spec.qk_dim else {}),
                   **({"ranks": dict(spec.ranks)} if spec.ranks else {})}
                  for index, spec, choice, heads, neurons in zip(
                      self.subnet.kept, self.subnet.layers, self.precision.layers, self.kept_heads, self.kept_neurons)]
        value = {"schema": SCHEMA, "profile": self.profile, "runtime": self.runtime, "threads": self.threads,
                 "lengths": list(self.lengths), "budget": asdict(self.budget), "estimate": asdict(self.estimate),
                 "predicted_error": self.predicted_error, "bound": asdict(self.bound),
                 "embedding_precision": self.precision.embedding, "head_precision": self.precision.head,
                 **{name: value for name in ("word_rank", "hidden") if (value := getattr(self.subnet, name))},
                 "layers": layers, "source": {**self.source.to_json(), "layers": [
                     f"{layer.heads}x{layer.ffn}" for layer in self.source.layers]}, "provenance": self.provenance}
        return json.dumps(value, indent=2) + "\n"

    @classmethod
    def loads(cls, text: str) -> CompressionPlan:
        """Reads a plan, also one edited by hand. Raises UsageError, one line, naming the key that is wrong."""
        try:
            value = strict_json(text)
        except ValueError as error:
            raise UsageError(f"plan: not JSON: {error}") from error
        read = _Keys(value, "plan")
        if read.take("schema", int) != SCHEMA:
            raise UsageError(f"plan: schema is {value['schema']}, this version reads {SCHEMA}")
        layers = [_Keys(item, f"plan: layers[{i}]") for i, item in enumerate(read.take("layers", list))]
        if len(layers) > MOST_LAYERS:
            raise UsageError(f"plan: layers has {len(layers)} entries, a model has at most {MOST_LAYERS}")
        source = _Keys(read.take("source", dict), "plan: source")
        whole = EncoderShape(layers=tuple(_layer(text, i) for i, text in enumerate(source.take("layers", list))),
                             **{f.name: source.take(f.name, _KINDS[str(f.type)]) for f in fields(EncoderShape)
                                if f.name != "layers" and (f.default is MISSING or f.name in source.value)})
        specs = [LayerSpec(layer.take("heads", int), layer.take("ffn", int), layer.option("qk_dim", int, 0),
                           layer.ranks()) for layer in layers]
        precision = _precision(
            [(layer.take("attention_precision", str), layer.take("ffn_precision", str)) for layer in layers],
            read.take("embedding_precision", str), read.take("head_precision", str))
        plan = cls(
            subnet=SubnetSpec(tuple(layer.take("layer", int) for layer in layers), tuple(specs),
                              read.option("word_rank", int, 0), read.option("hidden", int, 0)), source=whole,
            kept_heads=tuple(layer.ranges("kept_heads") for layer in layers),
            kept_neurons=tuple(layer.ranges("kept_neurons") for layer in layers), precision=precision,
            runtime=read.take("runtime", str), threads=read.take("threads", int), lengths=read.lengths(),
            profile=read.take("profile", str), budget=read.record("budget", Budget),
            estimate=read.record("estimate", Estimate), predicted_error=read.take("predicted_error", float),
            bound=read.record("bound", Bound),
            provenance={k: str(v) for k, v in read.take("provenance", dict).items()})
        for keys in (read, source, *layers):
            keys.nothing_left()
        return plan


def to_ranges(indices: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) -> "0-2,5"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def from_ranges(text: str) -> tuple[int, ...]:
    """"0-2,5" -> (0, 1, 2, 5). Raises ValueError where it is not increasing ranges."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        start, stop = int(first), int(last if dash else first)
        if stop < start or stop >= MOST_UNITS or (found and start <= found[-1]):
            raise ValueError(f"'{part.strip()}' does not continue increasing ranges")
        found.extend(range(start, stop + 1))
    return tuple(found)


def _check_indices(indices: tuple[int, ...], width: int, whole: int, where: str) -> None:
    if len(indices) != width:
        raise UsageError(f"plan: {where} names {len(indices)} indices, the layer's width is {width}")
    if list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= whole:
        raise UsageError(f"plan: {where} must be increasing indices from 0 to {whole - 1}")


def _layer(text: Any, index: int) -> LayerSpec:
    heads, cross, ffn = str(text).partition("x")
    if not (cross and re.fullmatch(r"[0-9]{1,9}x[0-9]{1,9}", str(text))):
        raise UsageError(f"plan: source: layers[{index}] must look like \"12x1536\", got {text!r}")
    return LayerSpec(int(heads), int(ffn))


def _precision(layers: list[tuple[str, str]], embedding: str, head: str) -> Precision:
    try:
        return Precision(tuple(LayerPrecision(attention, ffn) for attention, ffn in layers), embedding, head)
    except ValueError as error:
        raise UsageError(f"plan: precision: {error}") from error


_KINDS = {"int": int, "float": float, "str": str}
_LATER = ("mean_ms",)
"""Fields that older plans do not have."""


class _Keys:
    """Takes typed values out of one JSON object and names the key in every complaint."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise UsageError(f"{where}: must be an object, got {value!r:.40}")
        self.value, self.where, self.taken = value, where, set[str]()

    def take(self, key: str, kind: type) -> Any:
        if key not in self.value:
            raise UsageError(f"{self.where}: {key} is missing")
        self.taken.add(key)
        value = self.value[key]
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UsageError(f"{self.where}: {key} must be of type {kind.__name__}, got {value!r:.40}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{self.where}: {key} must be finite, got {value}")
        return value

    def ranges(self, key: str) -> tuple[int, ...]:
        text = self.take(key, str)
        try:
            return from_ranges(text)
        except ValueError as error:
            raise UsageError(f"{self.where}: {key} must be ranges such as \"0-3,7\": {error}") from error

    def option(self, key: str, kind: type, usual: Any) -> Any:
        return self.take(key, kind) if key in self.value else usual

    def lengths(self) -> tuple[int, ...]:
        """"lengths"; of older plans "length", beside half of which their TFLite files served."""
        if "lengths" not in self.value:
            return input_lengths(self.take("length", int))
        found = self.take("lengths", list)
        if not all(type(length) is int for length in found):
            raise UsageError(f"{self.where}: lengths must be whole numbers, got {found!r:.40}")
        return tuple(found)

    def ranks(self) -> tuple[tuple[str, int], ...]:
        """"ranks" in the order of MATRICES, none where the key is absent."""
        keys = _Keys(self.option("ranks", dict, {}), f"{self.where}: ranks")
        found = tuple((name, keys.take(name, int)) for name in MATRICES if name in keys.value)
        keys.nothing_left()
        return found

    def record(self, key: str, record: type) -> Any:
        keys, made = _Keys(self.take(key, dict), f"{self.where}: {key}"), {}
        for item in fields(record):
            absent = keys.value.get(item.name, item.default if item.name in _LATER else 0)
            optional = str(item.type).endswith("| None") and absent is None
            if optional:
                keys.taken.add(item.name)
            kind = _KINDS.get(str(item.type).split(" ")[0], str)
            made[item.name] = None if optional else keys.take(item.name, kind)
        keys.nothing_left()
        return record(**made)

    def nothing_left(self) -> None:
        extra = sorted(set(self.value) - self.taken)
        if extra:
            raise UsageError(f"{self.where}: unknown key '{extra[0]}'")
