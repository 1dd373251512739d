"""mypy over the planning half and what runs on devices, strictly, as pyproject.toml says: python -m tests.typed"""

from __future__ import annotations

import subprocess
import sys

from tests.test_layers import PLANNING, ROOT


def main() -> int:
    files = [f"edgebert/{name.replace('.', '/')}.py" for name in PLANNING]
    return subprocess.run([sys.executable, "-m", "mypy", *files, "device_bench"], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
