"""Programs that our files meet and that cannot live in our environment: each has one of its own, made once. From the
root of the checkout:

    python -m tests.peers build                     all of them
    python -m tests.peers build tflite214 node      those
    python -m tests.peers list                      which there are, and which are made
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.peers.build import PEERS, build, folder_of, is_built


def main(words: Sequence[str]) -> int:
    if not words or words[0] not in ("build", "list") or set(words[1:]) - set(PEERS):
        print(__doc__)
        return 2
    names = words[1:] or PEERS
    if words[0] == "build":
        build(names)
    for name in names:
        print(f"{name}: {folder_of(name) if is_built(name) else 'not made'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RuntimeError as failure:
        sys.exit(f"peers: {failure}")
