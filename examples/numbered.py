"""What the numbered examples share: their flags, made-up rows for a short run, a bundle opened as an app opens it."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import random
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgebert.cache import default_cache

TOY: dict[str, Any] = {"effort": "quick", "teacher_epochs": 2, "length": 16, "runtime": "onnx", "criterion": "fisher",
                       "methods": ()}
"""What makes a run of `fit_device` small: short rows, one format, a quick criterion, and nothing made up for."""

TUNES, SKIES, SMALL = ("play", "some", "music", "jazz"), ("is", "it", "sunny", "rain", "weather"), ("a", "b", "c", "for")


def flags(about: str | None, data: str, out: str = "edgebert-bundle",
          profile: str | None = "x86-laptop") -> argparse.ArgumentParser:
    """The flags of every example that makes a bundle. about: the script's docstring; data: what its rows look like;
    profile: the usual device, None where a script names its devices otherwise."""
    title, _, more = (about or "").partition("\n")
    parser = argparse.ArgumentParser(description=title, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=data)
    parser.add_argument("--model", help="a Hugging Face folder or hub id (default: all-MiniLM-L6-v2 of the extra `demo`)")
    if profile is not None:
        parser.add_argument("--profile", default=profile, help="the device: a name of `edgebert profiles`, or a .toml")
    parser.add_argument("--out", type=Path, default=Path(out), help=f"where the bundle goes (default: {out})")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where finished stages are kept")
    parser.add_argument("--overwrite", action="store_true", help="replace an older bundle")
    parser.add_argument("--toy", action="store_true", help="made-up rows and no distillation: to see that it works")
    return parser


def parsed(parser: argparse.ArgumentParser, write: Callable[[Path], None]) -> argparse.Namespace:
    """The flags as they were given. With --toy alone, the rows are those that `write` makes, beside --out. `settings`
    holds what else of a `FitRequest` the flags say."""
    given = parser.parse_args()
    if given.data is None:
        if not given.toy:
            parser.error("give your rows with --data, or --toy for made-up ones")
        given.data = given.out.with_name(f"{given.out.name}-rows.jsonl")
        given.data.parent.mkdir(parents=True, exist_ok=True)
        write(given.data)
    command = shlex.join(["python", *sys.argv])
    given.settings = {"overwrite": given.overwrite, "command": command, **(TOY if given.toy else {})}
    return given


def opened(bundle: Path) -> Any:
    """The bundle's own Python sample, opened: `samples/python/classify.py` is what an application takes over."""
    spec = importlib.util.spec_from_file_location("classify", bundle / "samples/python/classify.py")
    assert spec is not None and spec.loader is not None
    sample = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True  # a bundle holds what its manifest names, and nothing beside it
    spec.loader.exec_module(sample)
    return sample.Classifier(bundle)


def write_texts(path: Path, count: int = 240) -> None:
    """Rows of `text` and `label`, a .csv or JSON lines: two classes that differ in their words."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        words = draw.choices((TUNES, SKIES)[number % 2], k=4) + draw.choices(SMALL, k=3)
        rows.append({"text": " ".join(words), "label": ("tunes", "skies")[number % 2]})
    _write(path, rows)


def write_pairs(path: Path, count: int = 240) -> None:
    """Rows of `text_a`, `text_b` and `label`: do both texts speak of the same thing?"""
    draw = random.Random(1)
    rows = []
    for number in range(count):
        first = number // 2 % 2
        second = first if number % 2 else 1 - first
        texts = [" ".join(draw.choices((TUNES, SKIES)[topic], k=4)) for topic in (first, second)]
        rows.append({"text_a": texts[0], "text_b": texts[1], "label": "same" if first == second else "other"})
    _write(path, rows)


def write_tags(path: Path, count: int = 240) -> None:
    """Rows of `tokens` with `tags`, and the `intent` of the whole."""
    draw = random.Random(2)
    rows = []
    for number in range(count):
        music = number % 2 == 0
        words = [("play", "some", "jazz") if music else ("is", "it", "sunny"), tuple(draw.choices(SMALL, k=2))]
        spans = [("O", "O", "B-genre") if music else ("O", "O", "B-sky"), ("O", "O")]
        order = draw.sample((0, 1), 2)
        rows.append({"tokens": [word for place in order for word in words[place]],
                     "tags": [tag for place in order for tag in spans[place]],
                     "intent": "PlayMusic" if music else "GetWeather"})
    _write(path, rows)


def spans_of(answers: Any) -> list[tuple[str, str]]:
    """(kind, text) of every span in a tagger's answers, one answer a word, tags as B-kind, I-kind and O."""
    found: list[tuple[str, str]] = []
    begun = None
    for word, tag, _score in answers:
        kind = None if tag == "O" else tag.removeprefix("B-").removeprefix("I-")
        if kind is not None and (kind != begun or tag.startswith("B-")):
            found.append((kind, word))
        elif kind is not None:
            found[-1] = (kind, f"{found[-1][1]} {word}")
        begun = kind
    return found


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
