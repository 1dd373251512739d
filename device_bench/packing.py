"""Write bench.pyz: this package as one file that any Python 3.9+ can run."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_START = "import sys\n\nfrom device_bench.__main__ import main\n\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip entry can have


def write_pyz(target: Path) -> Path:
    """Write the zipapp to `target` and return it; the same sources always give the same bytes.

    Entries are sorted, dated 1980, and stored uncompressed, because compressed bytes differ between zlib
    versions.

    Raises:
        FileNotFoundError: the package's sources are not in a folder, as when this runs inside a zipapp.
    """
    target = Path(target)
    sources = sorted(_PACKAGE.glob("*.py"))
    if not sources:
        raise FileNotFoundError(f"no sources in {_PACKAGE}; install the package, or copy this zipapp")
    files = {"__main__.py": _START.encode()}
    files.update({f"{_PACKAGE.name}/{source.name}": source.read_bytes() for source in sources})
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as out:
            out.write(b"#!/usr/bin/env python3\n")
            with zipfile.ZipFile(out, "w") as archive:
                for name, content in sorted(files.items()):
                    entry = zipfile.ZipInfo(name, _EPOCH)
                    entry.create_system = 3  # Unix, whatever system writes it
                    entry.external_attr = 0o644 << 16
                    archive.writestr(entry, content)
        partial.chmod(0o755)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target
