"""Whether native libraries load on a system with memory pages of 16 KB, as Android 15 and later may have.

A 64-bit library loads there if every segment that is loaded (PT_LOAD) is aligned to 16,384 bytes; one that lies
uncompressed in an .apk is mapped from there, and has to begin at a multiple of it too. 32-bit processes keep 4 KB.
Sources: System V ABI, "Program Header"; Android's guide "Support 16 KB page sizes".
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgebert.errors import UsageError

PAGE = 16384
ARCHIVES = (".aar", ".apk", ".aab", ".jar", ".zip", ".whl")
_LOAD = 1
_MACHINES = {3: "x86", 40: "arm", 62: "x86_64", 183: "arm64", 243: "riscv"}


@dataclass(frozen=True)
class Library:
    """One shared library. place: its path, inside an archive after "!/". bits: 32 or 64. alignment: the least of its
    loaded segments. offset: where it begins in an archive that is mapped, None elsewhere."""

    place: str
    machine: str
    bits: int
    alignment: int
    offset: int | None = None

    @property
    def fits(self) -> bool:
        """Whether it loads with pages of 16 KB, or never has to."""
        return self.bits == 32 or (self.alignment % PAGE == 0 and self.alignment > 0 and (self.offset or 0) % PAGE == 0)

    def text(self) -> str:
        if self.bits == 32:
            return f"{self.place}: {self.machine}, 32-bit, which keeps 4 KB pages"
        if self.fits:
            return f"{self.place}: {self.machine}, segments aligned to {self.alignment:,} bytes"
        aligned = self.alignment > 0 and self.alignment % PAGE == 0
        where = f", at {self.offset:,} in the archive, no multiple of {PAGE:,}" if aligned else ""
        return f"{self.place}: {self.machine}, segments aligned to {self.alignment:,} bytes{where}: no 16 KB pages"


def read_library(content: bytes, place: str, offset: int | None = None) -> Library:
    """Reads the headers of an ELF file; its first 64 kB are enough. Raises UsageError for anything else."""
    try:
        if content[:4] != b"\x7fELF":
            raise ValueError("no ELF header")
        order = {1: "<", 2: ">"}[content[5]]
        bits = {1: 32, 2: 64}[content[4]]
        wide = bits == 64
        _, machine, _, _, table, *_ = struct.unpack_from(order + ("HHIQQQ" if wide else "HHIIII"), content, 16)
        size, count = struct.unpack_from(order + "HH", content, 54 if wide else 42)
        aligned = [struct.unpack_from(order + ("Q" if wide else "I"), content, table + size * i + (48 if wide else 28))[0]
                   for i in range(count)
                   if struct.unpack_from(order + "I", content, table + size * i)[0] == _LOAD]
        return Library(place, _MACHINES.get(machine, f"machine {machine}"), bits, min(aligned), offset)
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise UsageError(f"{place}: not a shared library ({error})") from error


def libraries(path: Path) -> Iterator[Library]:
    """The libraries of a folder, an archive (ARCHIVES) or a file. Raises UsageError where there is none."""
    found = False
    for one in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not one.is_file():
            continue
        if one.suffix in ARCHIVES:
            inside = list(_in_archive(one))
        elif _is_library(one.name) or not path.is_dir():
            inside = [read_library(_start(one), str(one))]
        else:
            continue
        found = found or bool(inside)
        yield from inside
    if not found:
        raise UsageError(f"--libraries {path}: no .so in there; give a library, a folder, an .aar or an .apk")


def _is_library(name: str) -> bool:
    return name.endswith(".so") or ".so." in name.rpartition("/")[2]


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 16)
    except OSError as error:
        raise UsageError(f"--libraries {path}: cannot be read ({error.strerror})") from error


def _in_archive(path: Path) -> Iterator[Library]:
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            for entry in archive.infolist():
                if not _is_library(entry.filename) or not entry.filename.isprintable():
                    continue
                offset = None
                if path.suffix == ".apk" and entry.compress_type == zipfile.ZIP_STORED:
                    raw.seek(entry.header_offset + 26)
                    name, extra = struct.unpack("<HH", raw.read(4))
                    offset = entry.header_offset + 30 + name + extra
                with archive.open(entry) as file:
                    yield read_library(file.read(1 << 16), f"{path}!/{entry.filename}", offset)
    except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error,
            NotImplementedError, RuntimeError) as error:
        raise UsageError(f"--libraries {path}: not a readable archive ({error})") from error
