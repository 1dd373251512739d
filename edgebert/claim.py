"""One run a folder: a lock beside the folder while a run makes it, and what dead runs left there is taken away.

The lock is flock's, on an open file; on Windows that of a byte far behind the file's end. The system lets go of it when
the process ends, however it ends, so that no lock is ever stale; the file's text only tells people who holds it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TextIO, TypeVar

from edgebert.crew import crew
from edgebert.errors import BusyError, UsageError

try:
    import fcntl
except ImportError:
    import msvcrt

Rest = ParamSpec("Rest")
Result = TypeVar("Result")

_WINDOWS = "msvcrt" in globals()
_FAR = 1 << 30
"""The byte that is locked on Windows, where what is locked cannot be read: the text stays readable."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What a file system answers that knows no locks. A run there goes on without, as every program does."""


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock file for the time of the block; afterwards it is gone.

    busy: called with who holds it, such as "process 123 on board", before this process waits; raises to not wait.
    Raises OSError where the file cannot be made.
    """
    while True:
        with path.open("a+", encoding="utf-8") as file:
            _lock(file, busy)
            if not _still(path, file.fileno()):  # its holder removed it while this process waited for it
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            try:
                yield
            finally:
                if _WINDOWS:  # which removes no open file, so that one that it does remove is nobody's
                    file.close()
                with contextlib.suppress(PermissionError):
                    path.unlink(missing_ok=True)
            return


def _lock(file: TextIO, busy: Callable[[str], None]) -> None:
    try:
        _take(file, wait=False)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        busy(file.read(200).strip() or "another process")
        _take(file, wait=True)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _take(file: TextIO, wait: bool) -> None:
    """Raises BlockingIOError, or on Windows PermissionError, where another process has the lock and `wait` is not set."""
    if not _WINDOWS:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    while True:
        os.lseek(file.fileno(), _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return
        except OSError as error:
            if not wait or error.errno != errno.EDEADLOCK:  # said after ten seconds of waiting
                raise


def _still(path: Path, number: int) -> bool:
    """Whether the open file is the one that `path` names."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(number))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keeps every other run away from the folder `out`, and first takes away what killed runs left beside it: folders
    under temporary names, and an older result that a run was about to replace, which is put back.

    The processes of one run claim it as one. Raises BusyError naming the process that has it, OSError where its folder
    cannot be written.
    """
    def refuse(holder: str) -> None:
        raise BusyError(f"{holder} is making {out}: wait until it has ended, or give another --out")

    if not crew().main:
        yield
        return
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with locked(out.with_name(f".{out.name}.lock"), refuse):
        _tidy(out)
        yield


def claiming(run: Callable[Concatenate[Any, Rest], Result]) -> Callable[Concatenate[Any, Rest], Result]:
    """A run that claims the folder `out` of its first argument, the request, until it ends."""
    @functools.wraps(run)
    def claimed_run(request: Any, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
        with claimed(request.out):
            return run(request, *rest, **named)

    return claimed_run


def _tidy(out: Path) -> None:
    left = re.compile(rf"\.{re.escape(out.name)}\.(tmp|old)-\d+(\.zip)?")
    for path in sorted(out.absolute().parent.iterdir()):
        found = left.fullmatch(path.name)
        if found and found[1] == "old" and not out.exists():
            os.replace(path, out)
        elif found:
            remove(path)


def clear_temporary(folder: Path) -> None:
    """Removes what killed runs left half written in a folder that this run has claimed: files with a process's number in
    their name, as every writer here calls them until they are whole."""
    for path in folder.iterdir():
        if re.fullmatch(r".+\.\d+\.(tmp|part|partial)", path.name):
            remove(path)


def remove(path: Path) -> None:
    """Removes a file or a folder with all that is in it. Raises OSError where that cannot be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def temporary_beside(out: Path) -> Path:
    """A name beside `out`, in the same file system, that nothing has yet: what is made there is renamed to `out`."""
    made = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    shutil.rmtree(made, ignore_errors=True)
    return made


@contextlib.contextmanager
def made_beside(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that a finished result is renamed from; what was not renamed is removed."""
    made = temporary_beside(out)
    made.mkdir(parents=True)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_text(out: Path, text: str) -> None:
    """Writes a file under a temporary name beside `out` and renames it, so that `out` is never half written."""
    made = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        made.write_text(text, encoding="utf-8")
        os.replace(made, out)
    finally:
        made.unlink(missing_ok=True)


def move_into_place(made: Path, out: Path, overwrite: bool) -> None:
    """Renames the finished folder to `out`; an older result there is removed only then.

    A process killed between the two renames leaves the older result under a temporary name, from where the next run that
    claims `out` puts it back. Raises UsageError where there is one that may not be replaced.
    """
    if not out.exists():
        os.replace(made, out)
        return
    if not overwrite:
        raise UsageError(f"{out} exists; pass --overwrite or another --out")
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    os.replace(out, old)
    os.replace(made, out)
    shutil.rmtree(old)
