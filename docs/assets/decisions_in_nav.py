"""For mkdocs: every page of docs/decisions in the menu, so that a new decision is one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    folder = Path(config.docs_dir) / "decisions"
    made = next(entry["How it is made"] for entry in config.nav if isinstance(entry, dict) and "How it is made" in entry)
    made.append({"Decisions": [f"decisions/{page.name}" for page in sorted(folder.glob("*.md"))]})
    return config
