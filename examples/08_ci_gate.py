"""A gate for CI: is the bundle whole, does it answer as it did when it was made, and is it inside its budget here?

    python examples/08_ci_gate.py edgebert-bundle
    python examples/08_ci_gate.py edgebert-bundle --device ssh:ci@board --check --record record.jsonl

Ends with the exit codes of `edgebert verify` and `edgebert bench --check`: 4 where a file changed or answers otherwise, 6
where the device does not answer, 7 over the budget. The budget is held against the machine that --device names, so that
--check is for the target, or one like it. ci-gate.yml has both as a GitHub workflow.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import edgebert
from edgebert.benching import kept_in, over_budget, require_golden
from edgebert.errors import OverBudgetError, failure


def gate(bundle: Path, device: str, check: bool, record: Path | None) -> None:
    """Raises the error of the first thing that is wrong."""
    for what, detail in edgebert.verify(bundle).checks:
        print(f"ok  {what}: {detail}")
    keep = kept_in(record) if record else lambda done: None
    records = edgebert.bench(bundle, runs=100, device=device, keep=keep)
    require_golden(records, device)
    for one in records:
        p90 = one.latency_ms(90)
        print(f"ok  {one.file_name} on {device}: " + (f"p90 {p90:.2f} ms" if p90 else "too few runs for a latency")
              + ("" if one.valid else ", not valid as latency: " + "; ".join(one.reasons())))
    if check and (misses := over_budget(bundle, records)):
        raise OverBudgetError("; ".join(misses))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("edgebert-bundle"))
    parser.add_argument("--device", default="local", help="local, ssh:user@host[:port] or adb:SERIAL")
    parser.add_argument("--check", action="store_true", help="hold what is measured against the bundle's budget")
    parser.add_argument("--record", type=Path, help="a file that every record is appended to, as JSON lines")
    given = parser.parse_args()
    try:
        gate(given.bundle, given.device, given.check, given.record)
    except Exception as error:
        known = failure(error)
        if known is None:
            raise
        text, code = known
        print(f"stop: {text}", file=sys.stderr)
        return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
