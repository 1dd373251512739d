"""Tables out of the `datasets` library: a folder that it saved, or a data set on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_bench.strict_json import bounded_text, strict_json
from edgebert.data_files import Table, arrow_rows, declared_names, one_line, one_per_split, opened
from edgebert.errors import UsageError


def saved_tables(folder: Path) -> dict[str, Table]:
    datasets = _library(str(folder))
    _refuse_strangers(folder)
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises whatever a damaged folder trips over
        raise UsageError(f"{folder}: not a readable saved dataset ({one_line(str(error))})") from error
    return _split_tables(dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}, folder.name)


def hub_tables(name: str, config: str | None) -> dict[str, Table]:
    """Of a data set on the hub, downloaded or out of the library's cache. It runs no code of the data set."""
    datasets = _library(name)
    try:
        return _split_tables(dict(datasets.load_dataset(name, config)), name.rpartition("/")[2])
    except UsageError:
        raise
    except Exception as error:  # the library raises many kinds: network, a missing name, a config that must be named
        raise UsageError(f"{name}: no such file or folder, and as a data set of the hub not to be had "
                         f"({type(error).__name__}: {one_line(str(error))}); save it once with `save_to_disk` and give "
                         "that folder") from error


def _library(wanted: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(f"{wanted}: reading it needs datasets; pip install 'edgebert[data]'") from error
    return datasets


def _split_tables(splits: Mapping[str, Any], where: str) -> dict[str, Table]:
    """Of the data sets of `datasets`, by the names of their splits."""
    import pyarrow

    chosen = one_per_split({name.lower(): [name] for name in splits}, where)
    if "train" not in chosen:
        raise UsageError(f"{where}: no train split; found {', '.join(splits) or 'none'}")
    tables = {}
    for split, name in chosen.items():
        dataset = splits[name]
        batches = dataset.with_format("arrow").iter(batch_size=4096)
        names = declared_names(dataset.features.to_dict())
        rows = arrow_rows(name, batches, pyarrow.ArrowException)
        tables[split] = opened(f"{where}/{name}", "row", rows, tuple(dataset.column_names), names)
    return tables


def _refuse_strangers(folder: Path) -> None:
    """The files that a saved dataset names lie in its folders. Raises UsageError."""
    try:
        splits = [folder]
        if (folder / "dataset_dict.json").is_file():
            names = strict_json(bounded_text(folder / "dataset_dict.json"))["splits"]
            splits = [folder / _plain(name) for name in names]
        for split in splits:
            for entry in strict_json(bounded_text(split / "state.json"))["_data_files"]:
                _plain(entry["filename"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder}: not a readable saved dataset ({one_line(str(error))})") from error


def _plain(name: Any) -> str:
    if not isinstance(name, str) or name != Path(name).name or not name.isprintable():
        raise ValueError(f"{name!r:.60} is no file of its folder")
    return name
