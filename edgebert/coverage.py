"""What a trimmed vocabulary does to texts that had no say in it: a report in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgebert.pieces import read_spec, unknown_id

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SCALE_BYTES = 4
"""Of each row of an int8 word table in an ONNX file."""


@dataclass(frozen=True)
class SplitCoverage:
    """Rows of one split, read by the whole tokenizer (before) and the trimmed one (after), special tokens included.

    unchanged: rows with the same pieces. pieces, unknown: pieces of all rows, and those that stand for something
    unknown; (before, after) each.
    """

    name: str
    rows: int
    unchanged: int
    pieces: tuple[int, int]
    unknown: tuple[int, int]

    @property
    def unchanged_share(self) -> float:
        return self.unchanged / max(1, self.rows)

    @property
    def pieces_per_row(self) -> tuple[float, float]:
        before, after = self.pieces
        return before / max(1, self.rows), after / max(1, self.rows)

    @property
    def unknown_share(self) -> tuple[float, float]:
        """Of all pieces."""
        before, after = (count / max(1, total) for count, total in zip(self.unknown, self.pieces, strict=True))
        return before, after

    def text(self) -> str:
        (before, after), (lost, lost_after) = self.pieces_per_row, self.unknown_share
        return (f"{self.name}: {100 * self.unchanged_share:.1f} % of {self.rows:,} rows in the same pieces, "
                f"{before:.2f} -> {after:.2f} pieces a row, unknown {100 * lost:.2f} % -> {100 * lost_after:.2f} %")


@dataclass(frozen=True)
class Coverage:
    """before, kept: pieces of the whole and the trimmed vocabulary. saved_fp32_bytes, saved_int8_bytes: by the rows of
    the word table that are gone, in files of these precisions. splits: rows that no piece was chosen by."""

    before: int
    kept: int
    saved_fp32_bytes: int
    saved_int8_bytes: int
    splits: tuple[SplitCoverage, ...]

    def text(self) -> str:
        """One line for the vocabulary and one for each split."""
        first = (f"vocabulary: {self.kept:,} of {self.before:,} pieces kept, {self.saved_fp32_bytes / 1e6:.1f} MB saved "
                 f"in fp32, {self.saved_int8_bytes / 1e6:.1f} MB in int8")
        return "\n".join([first, *(split.text() for split in self.splits)])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Coverage:
        splits = tuple(SplitCoverage(**{**split, "pieces": tuple(split["pieces"]), "unknown": tuple(split["unknown"])})
                       for split in value["splits"])
        return cls(**{**value, "splits": splits})


def saved_bytes(dropped_rows: int, columns: int) -> tuple[int, int]:
    """(fp32, int8) bytes of so many rows of a word table with so many columns."""
    return 4 * columns * dropped_rows, (columns + SCALE_BYTES) * dropped_rows


def cover(whole: Tokenizer, trimmed: Tokenizer, kept: Sequence[int], name: str,
          texts: Iterable[str | tuple[str, str]]) -> SplitCoverage:
    """Reads texts or pairs of texts with both tokenizers. kept: the whole one's ids, in the trimmed one's order."""
    rows = list(texts)
    new = {old: number for number, old in enumerate(kept)}
    lost = unknown_id(read_spec(whole), whole.get_vocab(with_added_tokens=True))
    before, after = whole.encode_batch_fast(rows), trimmed.encode_batch_fast(rows)
    unchanged = sum([new.get(index) for index in old.ids] == row.ids for old, row in zip(before, after, strict=True))
    return SplitCoverage(name, len(rows), unchanged, (sum(map(len, before)), sum(map(len, after))),
                         (sum(row.ids.count(lost) for row in before),
                          sum(row.ids.count(new.get(lost)) for row in after)))
