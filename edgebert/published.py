"""Latencies of encoders that others published, and what the profiles' formula makes of the same.

The constants of `edgebert.derive` are fitted to them; docs/profiles.md shows the two side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgebert import cost, derive
from edgebert.device import CostRow, load_profile
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import Precision


def encoder(hidden: int, head_dim: int, heads: int, ffn: int, layers: int) -> EncoderShape:
    """The published models run every layer on all tokens, unlike the files edgebert exports for classification."""
    return EncoderShape(hidden, head_dim, 30522, 512, 2, 2, (LayerSpec(heads, ffn),) * layers, head="tokens")


BERT_BASE, MINILM_L6 = encoder(768, 64, 12, 3072, 12), encoder(384, 32, 12, 1536, 6)
TINYBERT = encoder(312, 26, 12, 1200, 4)


def plain(shape: EncoderShape) -> Callable[[int], list[cost.Block]]:
    return lambda length: [b for b, _ in cost.blocks(shape, Precision.uniform("fp32", len(shape.layers)), length)]


def mobilebert(ffns: int, light: bool) -> Callable[[int], list[cost.Block]]:
    """MobileBERT (Sun et al. 2020), which no EncoderShape expresses, put together from blocks: 24 layers 128 wide between
    streams of 512, each entered through bottlenecks and left through another, with `ffns` FFNs of 512 stacked.

    light: the attention reads the bottleneck alone, as in the TINY model; otherwise there is a second bottleneck for
    queries and keys, and values read the stream. 2.69 and 1.54 GMACs at 128 tokens; the paper states 5.7 and 3.1
    GFLOPs. Its norms without statistics and its ReLU are priced as norms and GELU.
    """
    shape = encoder(128, 32, 4, 512, 24)

    def count(length: int) -> list[cost.Block]:
        found = [cost.embedding_blocks(shape, length)[0], _product(3 * 128, 512, length)]
        for layer in shape.layers:
            found += [_product(512, 128, length), cost.attention_block(shape, layer, length),
                      *[cost.ffn_block(shape, layer, length)] * ffns, _product(128, 512, length)]
            if not light:
                found += [_product(512, 128, length), _product(512 - 128, 128, length)]
        return [*found, cost.head_block(shape, length)]

    return count


def _product(inputs: int, outputs: int, length: int) -> cost.Block:
    """One matrix on every token: the projection behind an embedding of another width."""
    shape = EncoderShape(outputs, outputs, 2, 512, 2, 2, (LayerSpec(1, 1),), head="tokens", embedding=inputs)
    return cost.embedding_blocks(shape, length)[-1]


MODELS = {"BERT-base": plain(BERT_BASE), "mpnet-base": plain(BERT_BASE), "MiniLM-L6": plain(MINILM_L6),
          "TinyBERT 4-312": plain(TINYBERT), "MobileBERT": mobilebert(4, False), "MobileBERT-tiny": mobilebert(2, True)}
"""Blocks of each published model at a length. mpnet-base costs what BERT-base does, its relative positions aside."""


@dataclass(frozen=True)
class Figure:
    """One published latency. mask: the cores it ran on, None for those of the profile. reading: what the source leaves
    open and how it is read here."""

    device: str
    software: str
    model: str
    precision: str
    tokens: int
    threads: int
    latency_ms: float
    profile: str
    mask: str | None = None
    reading: str = ""

    @property
    def row(self) -> CostRow:
        """The cost row the formula gives for it, whatever the profile holds."""
        profile = load_profile(self.profile)
        cores = derive.cores_of(profile, self.threads, self.mask)
        runtime = "onnx" if self.software == "ONNX Runtime" else "tflite"
        return CostRow(**derive.cost_table(profile, runtime, self.precision, cores))

    @property
    def estimate_ms(self) -> float:
        return cost.latency_ms(MODELS[self.model](self.tokens), self.row)


_DEFAULT, _LENGTH = "4 threads are assumed", "16 tokens are assumed"

FIGURES = (
    *(Figure("Pixel 4", "TFLite", model, "fp32", 128, 4, ms, "pixel4", None, note) for model, ms, note in (
        ("BERT-base", 342.0, "as remembered from the paper"), ("MobileBERT", 62.0, ""),
        ("MobileBERT-tiny", 40.0, "as remembered from the paper"))),
    Figure("Pixel 6 Pro, one X1", "IREE", "MobileBERT", "fp32", 384, 1, 471.0, "pixel6"),
    *(Figure("Pixel 8 Pro, one X3", "IREE", "BERT-base", "fp32", tokens, 1, ms, "pixel8")
      for tokens, ms in ((8, 20.1), (32, 81.8), (64, 162.0))),
    *(Figure(device, "XNNPACK", model, "fp32", 80, 4, ms, name, None, _DEFAULT)
      for device, name, minilm, mpnet in (("OnePlus 12", "snapdragon-8-gen-3", 21.0, 90.0),
                                          ("iPhone 17 Pro", "iphone-17-pro", 7.0, 24.0))
      for model, ms in (("MiniLM-L6", minilm), ("mpnet-base", mpnet))),
    *(Figure(f"Kirin 810, one {core}", "Bolt", "TinyBERT 4-312", precision, 16, 1, ms, "kirin-810", mask, _LENGTH)
      for core, mask, figures in (("A76", "0x80", (4.71, 3.21, 2.21)), ("A55", "0x1", (16.6, 9.1, 7.1)))
      for precision, ms in zip(("fp32", "fp16", "int8"), figures)),
    Figure("Raspberry Pi 4", "ONNX Runtime", "MiniLM-L6", "int8", 64, 4, 34.0, "raspberry-pi-4", None,
           "64 tokens and 4 threads are assumed"),
)


MOST_OFF = 1.5
"""No estimate is further from a published figure than this factor."""


def table(figures: Sequence[Figure]) -> list[str]:
    """Estimate beside published latency, as the lines of a Markdown table."""
    rows = ["| device | software | model | precision | tokens | threads | published | estimate | ratio | read as |",
            "|---|---|---|---|---|---|---|---|---|---|"]
    for figure in figures:
        published, estimate = figure.latency_ms, figure.estimate_ms
        cells = (figure.device, figure.software, figure.model, figure.precision, figure.tokens, figure.threads,
                 f"{published:.3g} ms", f"{estimate:.3g} ms", f"{estimate / published:.2f}", figure.reading)
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows
