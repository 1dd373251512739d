"""The device lab: an emulated arm64 machine behind a real sshd and a real adbd, for tests without hardware. From the root
of the checkout:

    python -m tests.lab build                       make the arm64 root, once
    python -m tests.lab python bench.pyz M.onnx     run the root's Python on files of this machine; needs no rights
    python -m tests.lab run edgebert bench BUNDLE --device ssh:lab
    python -m tests.lab run edgebert bench BUNDLE --device adb:127.0.0.1:666

What it times is an emulator: instructions of another machine, translated. No figure of it is a latency.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from tests.lab.build import build, lab_folder
from tests.lab.lab import python_command, running, why_not


def main(words: Sequence[str]) -> int:
    if not words or words[0] not in ("build", "run", "python"):
        print(__doc__)
        return 2
    if words[0] == "run" and (reason := why_not()):
        raise RuntimeError(reason)
    root = build(lab_folder())
    if words[0] == "build":
        print(f"the lab's root is {root}; python -m tests.lab says what can be run in it")
        return 0
    if words[0] == "python":
        return subprocess.run(python_command(root, words[1:])).returncode
    with running(root) as lab:
        return subprocess.run([*lab.enter, *words[1:]], env={**os.environ, **lab.environment}).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RuntimeError as failure:
        sys.exit(f"lab: {failure}")
