"""Lists the licence of every package in constraints.txt: docs/licences.md, from what the installed packages say.

    python examples/licences.py           writes docs/licences.md
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from edgebert.provenance import licence_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licences.md"

SPDX = {"apache software license": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0",
        "apache 2.0 license": "Apache-2.0", "apache license, version 2.0": "Apache-2.0", "apache-2": "Apache-2.0",
        "apache": "Apache-2.0", "mit license": "MIT", "the mit license (mit)": "MIT", "bsd license": "BSD-3-Clause",
        "bsd": "BSD-3-Clause", "3-clause bsd license": "BSD-3-Clause", "bsd 3-clause license": "BSD-3-Clause",
        "new bsd": "BSD-3-Clause", "isc license": "ISC", "isc license (iscl)": "ISC",
        "python software foundation license": "PSF-2.0", "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
        "apache software license; bsd license": "Apache-2.0 OR BSD-3-Clause", "mit license; apache software license":
        "MIT OR Apache-2.0", "dual license": "Apache-2.0 OR BSD-3-Clause", "apache-2.0 or bsd-3-clause":
        "Apache-2.0 OR BSD-3-Clause", "psf": "PSF-2.0", "psf-2.0": "PSF-2.0", "psfl": "PSF-2.0"}
"""What packages call their licences, in SPDX's words."""

READ = {"atheris": "Apache-2.0", "torchao": "BSD-3-Clause", "ziglang": "MIT"}
"""Packages whose metadata name no licence: what the licence file in them says."""


def pinned() -> list[str]:
    """Names in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line.partition("==")[0].strip() for line in lines if "==" in line and not line.startswith("#")]


def spdx(name: str) -> str:
    """The licence of an installed package as an SPDX expression. Raises LookupError where it cannot be told."""
    said = licence_of(name) or READ.get(name)
    if said is None:
        raise LookupError(f"{name} names no licence; read the licence file in it and add it to READ")
    return SPDX.get(said.lower(), said)


def page(licences: dict[str, str]) -> str:
    rows = "\n".join(f"| {name} | {licences[name]} |" for name in sorted(licences, key=str.lower))
    return ("# Licences of what is installed\n\nEvery package in `constraints.txt`, with the licence that the package "
            "itself states, as an SPDX expression. `python examples/licences.py` writes this page; a test holds it "
            "against `constraints.txt` and a list of licences that may be there. A bundle contains none of these "
            "packages; its `sbom.cdx.json` names those that made it.\n\n| package | licence |\n|---|---|\n" + rows + "\n")


def main() -> int:
    found, missing = {}, []
    for name in pinned():
        try:
            found[name] = re.sub(r"\s+", " ", spdx(name))
        except (metadata.PackageNotFoundError, LookupError) as error:
            missing.append(f"{name}: {error}")
    if missing:
        print("\n".join(["not installed, or without a licence:", *missing]), file=sys.stderr)
        return 1
    PAGE.write_text(page(found), encoding="utf-8")
    print(f"{PAGE}: {len(found)} packages, licences {', '.join(sorted(set(found.values())))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
