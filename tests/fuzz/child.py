"""One kind, one engine, so many inputs, in this process: under a bound on memory, and 10 seconds for each input.

Prints one JSON line: how the inputs ended, and what must not have happened.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.trees import FORMS, edited, edits

SECONDS, WAITING, MORE_BYTES, EVERY = 10, 6, 1 << 30, 40
"""CPU time for one input, and how often that in wall time; what its reading may take beside what the process has; one
input in so many goes through the command."""
DOCUMENTED = (0, 2, 3, 4, 5, 6, 7, 8, 9)


class TookTooLong(BaseException):
    """No reader catches it."""


class Run:
    """Counts, and findings by where they arose, each with the first input that led there."""

    def __init__(self, kind: Kind, folder: Path, keep: Path, answer: int) -> None:
        self.kind, self.folder, self.keep, self.answer = kind, folder, keep, answer
        self.path = folder / kind.file
        self.counts, self.commands, self.findings, self.seen = Counter[str](), Counter[str](), {}, set[bytes]()
        self.slowest_s = 0.0

    def one(self, content: bytes) -> None:
        """Counts how reading that content ends; a content counts once."""
        if content in self.seen:
            return
        self.seen.add(content)
        self.path.write_bytes(content)
        start = time.monotonic()
        ended = self._apart(self.read) if self.kind.apart else self.read()
        self.slowest_s = max(self.slowest_s, time.monotonic() - start)
        self._count(self.counts, ended, content)
        if self.kind.words is not None and len(self.seen) % EVERY == 1:
            self.path.write_bytes(content)
            self._count(self.commands, self.command(), content)

    def _count(self, counts: Counter[str], ended: str, content: bytes) -> None:
        counts[ended.splitlines()[0] if not ended.startswith("!") else "findings"] += 1
        if ended.startswith("!"):
            where = ended[1:].splitlines()[0]
            if where not in self.findings:
                name = f"{self.kind.name.replace(' ', '-')}-{len(self.findings)}"
                (self.keep / f"{name}.input").write_bytes(content)
                (self.keep / f"{name}.txt").write_text(ended[1:], encoding="utf-8", errors="backslashreplace")
                self.findings[where] = name

    def read(self) -> str:
        """"read", "refused (2)", or "!" and what must not happen."""
        from edgebert.errors import failure

        signal.signal(signal.SIGPROF, _too_long)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of this process, whatever else the machine does
        faulthandler.dump_traceback_later(WAITING * SECONDS, exit=True)  # inside C code no signal is heard
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self.kind.read(self.path)
            return "read"
        except TookTooLong:
            return f"!takes over {SECONDS} s: {_place(sys.exc_info()[2])}\n{traceback.format_exc()}"
        except BaseException as error:
            known = failure(error)
            if known is None or "too little memory" in known[0]:
                return f"!{type(error).__name__} {_place(error.__traceback__)}\n{traceback.format_exc()}"
            message, code = known
            if code not in DOCUMENTED or not message.strip() or len(message) > 2100 or not message.isprintable():
                return f"!exit code {code} with {len(message)} characters, {_place(error.__traceback__)}\n{message}"
            return f"refused ({code})"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()

    def command(self) -> str:
        """The same by the command line, in a process of its own and without a bound on memory."""
        command = [sys.executable, "-m", "edgebert", *self.kind.words(self.path)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=4 * WAITING * SECONDS, preexec_fn=unbound_memory)
        except subprocess.TimeoutExpired:
            return f"!command: no answer within {4 * WAITING * SECONDS} s\n{command}"
        said = done.stderr.decode(errors="replace")
        allowed = (*DOCUMENTED, 1) if command[3] == "doctor" else DOCUMENTED
        if done.returncode not in allowed or "Traceback" in said:
            return f"!command: exit code {done.returncode}, {said.strip().splitlines()[-1:]}\n{said[-3000:]}"
        return f"exit code {done.returncode}"

    def _apart(self, call: Callable[[], str]) -> str:
        """The answer of a fork of this process; a signal that ends it is contained."""
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            os.close(reading)
            try:
                answer = call()
            except BaseException:
                answer = f"!the harness itself\n{traceback.format_exc()}"
            with os.fdopen(writing, "w", encoding="utf-8", errors="backslashreplace") as out:
                out.write(answer)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as answer:
            text = answer.read()
        status = os.waitpid(child, 0)[1]
        if text:
            return text
        number = os.waitstatus_to_exitcode(status)
        contained = self.kind.apart and call == self.read and number < 0
        return f"ended by a signal ({-number})" if contained else f"!its process ended with {number}"


def _too_long(number: int, frame: object) -> None:
    raise TookTooLong


def _place(trace: object) -> str:
    """The innermost line of the project's own."""
    own = [one for one in traceback.extract_tb(trace) if any(
        f"/{name}/" in one.filename for name in ("edgebert", "exporters", "device_bench"))]
    return f"in {Path(own[-1].filename).name}:{own[-1].lineno} ({own[-1].name})" if own else "in no line of ours"


def bound_memory() -> None:
    """No more address space than the process has now and MORE_BYTES."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmSize:"):
            size = int(line.split()[1]) * 1024 + MORE_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def unbound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def by_structure(run: Run, valid: list[bytes], count: int, seed: int) -> None:
    """Hypothesis chooses the file and the changes."""
    from hypothesis import HealthCheck, Phase, assume, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    form = FORMS[run.kind.form]
    trees = [form.read(content) for content in valid]

    @seeded(seed)
    @settings(max_examples=count, database=None, deadline=None, phases=(Phase.generate,),
              suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(range(len(trees))), edits())
    def attack(number: int, changes: list) -> None:
        try:
            content = form.write(edited(trees[number], changes))
        except Exception:  # what cannot be written in this form is no input
            assume(False)
        run.one(content)

    attack()


def by_bytes(run: Run, valid: list[bytes], count: int, seed: int) -> None:
    """Atheris changes bytes, and goes on from inputs that reach new lines of the readers. It ends the process."""
    import atheris

    corpus = run.folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, content in enumerate(valid):
        (corpus / str(number)).write_bytes(content)
    calls = 0

    def test_one(content: bytes) -> None:
        nonlocal calls
        calls += 1
        run.one(content)
        if calls >= count:
            report(run)
            os._exit(0)

    atheris.Setup([sys.argv[0], f"-seed={seed + 1}", f"-max_len={max(map(len, valid)) + 4096}", "-timeout=1000",
                   "-rss_limit_mb=0", "-verbosity=0", "-report_slow_units=1000", f"-artifact_prefix={run.keep}/",
                   str(corpus)], test_one)
    atheris.Fuzz()


def by_chance(run: Run, valid: list[bytes], count: int, seed: int) -> None:
    """Bytes changed at random, for parsers whose coverage is not seen from here."""
    draw = random.Random(seed)
    while len(run.seen) < count:
        content = bytearray(draw.choice(valid))
        for _ in range(draw.choice((1, 1, 2, 4, 16))):
            place, length = draw.randrange(len(content)), draw.choice((1, 1, 2, 4, 8, 64))
            kind = draw.randrange(5)
            if kind == 0:
                content[place] ^= 1 << draw.randrange(8)
            elif kind == 1:
                content[place:place + length] = draw.randbytes(length)
            elif kind == 2:
                content[place:place + length] = draw.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * length
            elif kind == 3:
                other = draw.randrange(len(content))
                content[place:place + length] = content[other:other + length]
            else:
                del content[place:place + draw.choice((1, 4, len(content) // 2))]
            content = content or bytearray(b"\0")
        run.one(bytes(content))


def report(run: Run) -> None:
    """To the descriptor that the parent reads: C++ libraries print on stdout."""
    with os.fdopen(run.answer, "w") as out:
        out.write(json.dumps({"counts": run.counts, "commands": run.commands, "findings": run.findings,
                              "inputs": len(run.seen), "slowest_s": round(run.slowest_s, 2)}))


def main(engine: str, name: str, count: int, seed: int, keep: Path, answer: int) -> None:
    kind = KINDS[name]
    if engine == "bytes" and not kind.apart:
        import atheris

        with atheris.instrument_imports(include=list(kind.modules), enable_loader_override=False):
            for module in kind.modules:
                importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        run = Run(kind, Path(folder), keep, answer)
        (run.folder / kind.file).parent.mkdir(parents=True, exist_ok=True)
        valid = kind.lay(run.folder)
        if kind.apart:
            importlib.import_module({"onnx": "onnxruntime", "tflite": "ai_edge_litert.interpreter"}[str(kind.form)])
        for content in valid:  # imports what the readers import, which takes its time
            run.path.write_bytes(content)
            if kind.apart:
                ended = run._apart(run.read)
                if ended != "read":
                    sys.exit(f"{name}: a valid file is not read: {ended}")
            else:
                with contextlib.redirect_stdout(io.StringIO()):
                    kind.read(run.path)
        bound_memory()
        if engine == "structure":
            by_structure(run, valid, count, seed)
        else:
            (by_chance if kind.apart else by_bytes)(run, valid, count, seed)
        report(run)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]), int(sys.argv[6]))
