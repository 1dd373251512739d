"""Random subnets, such as the search proposes, to fit a cost model to and to test it on."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass, replace

from edgebert import cost
from edgebert.pricing import SAME_RANK
from edgebert.ranks import RANKS, qk_levels
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.tables import ffn_levels, head_levels

LENGTHS = (16, 32, 64, 128)
FAMILIES = ((384, 32, 12, 1536, 12), (384, 32, 12, 1536, 6), (768, 64, 12, 3072, 12), (512, 64, 8, 2048, 8),
            (312, 26, 12, 1200, 6), (256, 64, 4, 1024, 12), (128, 64, 2, 512, 6))
"""Hidden size, head width, heads, FFN, most layers: MiniLM, BERT-base, BERT-small, TinyBERT, BERT-mini, BERT-tiny."""
MOST_MACS = 3e9


@dataclass(frozen=True)
class Subject:
    """One encoder at one length. part: "fit", "test", "fit memory" or "test memory"."""

    part: str
    shape: EncoderShape
    length: int

    @property
    def name(self) -> str:
        text = json.dumps([self.shape.to_json(), self.length], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def subjects(fit: int, test: int) -> list[Subject]:
    """Random subnets for the fit and for the test, all-MiniLM-L6 at every length for the test, and some with large
    vocabularies, of which only memory is measured."""
    found = [drawn(part, index) for part, count in (("fit", fit), ("test", test)) for index in range(count)]
    minilm = EncoderShape(384, 32, 1000, 128, 2, 10, (LayerSpec(12, 1536),) * 6)
    found += [Subject("test", replace(minilm, positions=length), length) for length in LENGTHS]
    large = replace(minilm, vocab=30522, positions=64)
    cuts = [replace(large, layers=(LayerSpec(*layer),) * 2) for layer in ((12, 1536), (2, 192))]
    cuts.append(replace(large, layers=(LayerSpec(12, 3072),) * 4, vocab=15000))
    return found + [Subject("fit memory", shape, 64) for shape in cuts] + [Subject("test memory", large, 64)]


def drawn(part: str, index: int) -> Subject:
    """A subnet such as the search proposes: uneven layers, a quarter with factored matrices, a fifth with a narrower
    stream, a fifth with a classifier on every token."""
    rng = random.Random(f"{part} {index}")
    while True:
        hidden, head_dim, heads, ffn, most = rng.choice(FAMILIES)
        share, factored = rng.uniform(0.15, 1.0), rng.random() < 0.25
        stream = rng.randrange(hidden // 2, hidden, 16) if rng.random() < 0.2 else hidden
        bare = EncoderShape(stream, head_dim, 1000, 512, 2, rng.choice((2, 10, 150)), (LayerSpec(1, 1),),
                            rng.choice(("sequence",) * 4 + ("tokens",)), embedding=hidden,
                            word_rank=rng.randrange(16, hidden // 2 + 1, 16) if rng.random() < 0.1 else 0)
        layers = []
        for _ in range(rng.randint(1, most)):
            plain = LayerSpec(near(rng, share, head_levels(heads)), near(rng, share, ffn_levels(ffn)))
            layers.append(thinned(rng, bare, plain) if factored else plain)
        length = rng.choice(LENGTHS)
        shape = replace(bare, layers=tuple(layers), positions=length)
        if cost.macs(shape, length) <= MOST_MACS:
            return Subject(part, shape, length)


def near(rng: random.Random, share: float, levels: tuple[int, ...]) -> int:
    """A level about that share of the largest."""
    wanted = levels[-1] * min(1.0, rng.gauss(share, 0.2))
    return min(levels, key=lambda level: abs(level - wanted))


def thinned(rng: random.Random, bare: EncoderShape, layer: LayerSpec) -> LayerSpec:
    """The layer with some of its matrices as products of two, where that has fewer weights."""
    scored = rng.choice(qk_levels(bare.head_dim)) if rng.random() < 0.3 else 0
    layer, ranks = replace(layer, qk_dim=scored), []
    for group in SAME_RANK:
        sides = [bare.matrix(layer, name) for name in group]
        paying = [rank for rank in RANKS if all(rank * (a + b) < a * b for a, b in sides)]
        if paying and rng.random() < 0.5:
            rank = rng.choice(paying)
            ranks += [(name, rank) for name in group]
    return replace(layer, ranks=tuple(ranks))
