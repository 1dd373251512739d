"""Writes requirements-hashed.txt: what `pip install 'edgebert[all]'` installs under constraints.txt, each with the sha256
of its file, so that pip refuses any other.

    python examples/hash_requirements.py
    pip install --require-hashes -r requirements-hashed.txt && pip install --no-deps edgebert

pip itself is asked what it would install (`--dry-run --report`). The hashes are those of the files for this machine's
Python and system, which the first line names.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "requirements-hashed.txt"
OWN = "edgebert"


def report() -> dict[str, Any]:
    """What pip would install into an empty environment. Raises CalledProcessError where it cannot tell."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        subprocess.run([sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report",
                        str(out), "--constraint", str(ROOT / "constraints.txt"), f"{ROOT}[all]"], check=True)
        return json.loads(out.read_text(encoding="utf-8"))


def lines(found: dict[str, Any]) -> list[str]:
    """One line a package: name==version --hash=sha256:... Raises KeyError where an index told no hash."""
    made = []
    for one in found["install"]:
        about, archive = one["metadata"], one["download_info"].get("archive_info", {})
        if about["name"] != OWN:
            made.append(f"{about['name']}=={about['version']} --hash=sha256:{archive['hashes']['sha256']}")
    return sorted(made, key=str.lower)


def main() -> None:
    system = f"Python {platform.python_version_tuple()[0]}.{platform.python_version_tuple()[1]}, {platform.system()} " \
             f"{platform.machine()}"
    made = lines(report())
    OUT.write_text("\n".join([f"# {system}: pip install --require-hashes -r requirements-hashed.txt", *made]) + "\n",
                   encoding="utf-8")
    print(f"{OUT}: {len(made)} packages for {system}")


if __name__ == "__main__":
    main()
