"""Records of bench out of a file of JSON lines."""

from __future__ import annotations

from device_bench.result import BenchResult


def read_records(text: str) -> list[BenchResult]:
    """Every line that begins as a record; empty for a text of another kind, also for a list of events.

    Raises ValueError for a line that is no record, naming its number: a damaged file gives nothing rather than a part.
    """
    records: list[BenchResult] = []
    if text.lstrip().startswith("["):
        return records
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("{"):
            continue
        try:
            records.append(BenchResult.from_json(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return records
