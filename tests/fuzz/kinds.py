"""The files that a stranger may hand over, and who reads them."""

from __future__ import annotations

import contextlib
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import seeds
from tests.fuzz.trees import FORMS


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    file: what is damaged, in the case's folder. lay: puts what belongs beside it there, and gives valid contents of it.
    read: the readers that the commands use. form: of trees.FORMS, None for bytes alone. words: the command line that
    reads it, if one does. modules: whose coverage leads the bytes. apart: parsed by a runtime's C++, each in a process
    of its own, as `bench` and `verify` do it. share: of the inputs, for readers that take long.
    """

    name: str
    file: str
    lay: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    form: str | None
    words: Callable[[Path], list[str]] | None
    modules: tuple[str, ...] = field(default_factory=tuple)
    apart: bool = False
    share: float = 1.0


def _profile(folder: Path) -> list[bytes]:
    from edgebert.device import profile_folders

    return [path.read_bytes().replace(f'name = "{path.stem}"'.encode(), b'name = "device"')
            for place in profile_folders() for name in ("pixel6", "x86-laptop", "raspberry-pi-4")
            if (path := place / f"{name}.toml").is_file()]


def _read_profile(path: Path) -> None:
    from edgebert.device import load_profile
    from edgebert.profile_checks import check

    load_profile(path)
    check(path)


def _read_plan(path: Path) -> None:
    from edgebert.device import load_profile
    from edgebert.given import as_given, read_plan
    from edgebert.inspecting import inspect

    inspect(path)
    made = read_plan(path)
    as_given(made, seeds.tables_of_demo(), load_profile("pixel6"))


def _read_tables(path: Path) -> None:
    from edgebert.device import load_profile
    from edgebert.searching import Infeasible, search
    from edgebert.tables import read_tables

    tables, profile = read_tables(path), load_profile("pixel6")
    with contextlib.suppress(Infeasible):
        search(tables, profile, profile.budget, "onnx", 1, min(tables.length, 8))


def _bundle(folder: Path) -> list[bytes]:
    seeds.bundle(folder)
    return [(folder / "manifest.json").read_bytes()]


def _read_manifest(path: Path) -> None:
    from edgebert.bundle import check_files, read_manifest
    from edgebert.inspecting import inspect

    check_files(path.parent, read_manifest(path.parent))
    inspect(path.parent, 8)


def _part_of_bundle(name: str) -> Callable[[Path], list[bytes]]:
    def lay(folder: Path) -> list[bytes]:
        seeds.bundle(folder)
        return [(folder / name).read_bytes()]

    return lay


def _verify(path: Path) -> None:
    from edgebert.bundle import verify

    verify(seeds.write_manifest(path.parent))


def _read_golden(path: Path) -> None:
    from device_bench.inputs import check_golden, find_golden
    from device_bench.runtimes import open_model

    model = path.parent / "model_fp32.onnx"
    known = find_golden(model)
    if known is not None:
        check_golden(open_model(model), known)


def _records(folder: Path) -> list[bytes]:
    return [(json.dumps(seeds.record(folder)) + "\n").encode()]


def _swept(folder: Path) -> list[bytes]:
    return [(json.dumps(seeds.swept(folder)) + "\n").encode()]


def _read_results(path: Path) -> None:
    from edgebert.results import read_results, refuse_mixtures

    refuse_mixtures(read_results([path]), skip_invalid=True)


def _timings_of(path: Path) -> None:
    from edgebert.cli_native import Form, timings

    timings(path, Form.table)


def _kit(folder: Path) -> list[bytes]:
    return [(seeds.kit(folder) / "kit.json").read_bytes()]


def _read_kit(path: Path) -> None:
    from device_bench.kit import read_kit, read_measured

    read_kit(path.parent)
    read_measured(path)


def _supernet(folder: Path) -> list[bytes]:
    return [(seeds.supernet(folder) / "supernet.json").read_bytes()]


def _read_supernet(path: Path) -> None:
    from edgebert.supernet import open_supernet

    open_supernet(path.parent)


def _rows(suffix: str, *names: str) -> Callable[[Path], list[bytes]]:
    def lay(folder: Path) -> list[bytes]:
        found = [FORMS["jsonl"].write(seeds.ROWS[name]) for name in names or seeds.ROWS]
        if suffix == "gz":
            return [FORMS["gz"].write([json.loads(line) for line in rows.splitlines()]) for rows in found]
        if suffix in ("csv", "tsv"):
            mark = "," if suffix == "csv" else "\t"
            return ["\n".join([mark.join(("text", "label")), *(mark.join((row["text"], str(row["label"])))
                    for row in seeds.ROWS[name])]).encode() + b"\n" for name in ("classes", "numbers")]
        if suffix == "parquet":
            return [FORMS["parquet"].write({key: [row[key] for row in rows] for key in rows[0]})
                    for rows in seeds.ROWS.values()]
        return found

    return lay


def _read_data(path: Path) -> None:
    from edgebert.data import load_dataset

    load_dataset(path)


def _task(folder: Path) -> list[bytes]:
    (folder / "train.jsonl").write_bytes(FORMS["jsonl"].write(seeds.ROWS["classes"]))
    return [json.dumps({"name": "mine", "labels": ["x", "y"]}).encode()]


def _read_task(path: Path) -> None:
    from edgebert.data import load_dataset

    load_dataset(path.parent)


def _saved(folder: Path) -> list[bytes]:
    """A folder saved by `datasets`; its state.json names the files to read."""
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(seeds.ROWS["classes"]).save_to_disk(str(folder / "saved"))
    return [(folder / "saved" / "state.json").read_bytes()]


def _saved_info(folder: Path) -> list[bytes]:
    _saved(folder)
    return [(folder / "saved" / "dataset_info.json").read_bytes()]


def _part_of_checkpoint(name: str) -> Callable[[Path], list[bytes]]:
    def lay(folder: Path) -> list[bytes]:
        return [(seeds.checkpoint(folder) / name).read_bytes()]

    return lay


def _read_config(path: Path) -> None:
    from edgebert.inspecting import inspect

    inspect(path.parent, 8)


def _read_checkpoint(path: Path) -> None:
    from edgebert.checkpoint import load_checkpoint

    load_checkpoint(path.parent)
    load_checkpoint(path.parent, ("p", "q"))  # with a head of its own


def _read_tokenizer(path: Path) -> None:
    from edgebert.tokenization import PROBE_TEXTS, encode, load_tokenizer

    encode(load_tokenizer(path.parent), PROBE_TEXTS[:12], None, 16)


def _onnx(folder: Path) -> list[bytes]:
    return [(seeds.bundle(folder) / "model_fp32.onnx").read_bytes(), _packaged("model_qint8.onnx")]


def _tflite(folder: Path) -> list[bytes]:
    from tests.bench_material import write_tflite

    return [write_tflite(folder / "model.tflite").read_bytes(), _packaged("model_qint8.tflite")]


def _packaged(name: str) -> bytes:
    from edgebert.doctor import GOLDEN

    return (GOLDEN / name).read_bytes()


def _run_model(path: Path) -> None:
    from device_bench.inputs import synthetic_inputs
    from device_bench.runtimes import open_model

    session = open_model(path)
    session.run(synthetic_inputs(session, session.lengths[-1] if session.lengths else 8, vocabulary=4))


def _results(folder: Path) -> list[bytes]:
    from edgebert.evidence import Evidence, ModelEvidence, Score
    from edgebert.tables import ErrorTables

    shape = ErrorTables.loads(seeds.small_tables()).source
    model = ModelEvidence("teacher", shape, 10, 20, Score(90.0, 1.0, 10), Score(90.0, 1.0, 10))
    return [Evidence("t", "single_label_classification", "accuracy", ("x", "y"), 8, (), (model,), (), (), (), {}, False,
                     {"search": 1.0}, ()).dumps().encode()]


def _read_evidence(path: Path) -> None:
    from edgebert.evidence import Evidence

    Evidence.loads(path.read_text(encoding="utf-8", errors="replace"))


def _benchmark_text(folder: Path) -> list[bytes]:
    from device_bench.result import BenchResult
    from edgebert.interop.benchmark_model import write_benchmark_model

    events = [{"cat": "Session", "name": "model_run", "dur": 12, "ts": 1}, {
        "cat": "Node", "name": "a_kernel_time", "dur": 5, "ts": 2, "args": {"op_name": "MatMul", "provider": "CPU"}}]
    return [write_benchmark_model(BenchResult.from_dict(seeds.record(folder))).encode(), json.dumps(events).encode()]


def _library(folder: Path) -> list[bytes]:
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 183, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return [header + struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 4096, 4096, 16384)]


def _archive(folder: Path) -> list[bytes]:
    library, = _library(folder)
    with zipfile.ZipFile(folder / "seed.zip", "w") as archive:
        archive.writestr("lib/arm64-v8a/libx.so", library)
        archive.writestr("lib/../../evil.so", library, zipfile.ZIP_DEFLATED)
    return [(folder / "seed.zip").read_bytes()]


def _read_libraries(path: Path) -> None:
    from edgebert.elf import libraries

    for library in libraries(path):
        library.text()


def _inspect(path: Path) -> list[str]:
    return ["inspect", str(path)]


def _inspect_folder(path: Path) -> list[str]:
    return ["inspect", str(path.parent), "--length", "8"]


def _fit(path: Path) -> list[str]:
    return ["fit-device", "--profile", "pixel6", "--model", str(path.parent), "--data", str(path), "--dry-run"]


def _export(path: Path) -> list[str]:
    return ["export", str(path.parent), "--runtime", "onnx", "--precision", "fp32", "--length", "8", "--out",
            str(path.parent / "exported"), "--overwrite"]


def _verify_words(path: Path) -> list[str]:
    return ["verify", str(seeds.write_manifest(path.parent))]


def _data(name: str, suffix: str, form: str, share: float = 1.0) -> Kind:
    return Kind(name, f"train.{suffix}", _rows(form), _read_data, form, _fit, _DATA, share=share)


_DATA = ("edgebert.data", "edgebert.data_files", "edgebert.data_kinds", "edgebert.data_splits")
_CHECKPOINT = ("edgebert.checkpoint", "edgebert.layout", "edgebert.spec", "edgebert.inspecting")
_RECORD = ("edgebert.results", "device_bench.reading", "device_bench.fields", "edgebert.sweep_design",
           "edgebert.interop.records", "edgebert.interop.benchmark_model", "edgebert.interop.onnxruntime_profile")
_PLAN = ("edgebert.plan", "edgebert.given", "edgebert.spec", "edgebert.tables", "edgebert.space", "edgebert.supernet",
         "edgebert.bundle", "edgebert.evidence", "device_bench.inputs", "device_bench.kit")

KINDS = {kind.name: kind for kind in (
    Kind("profile", "device.toml", _profile, _read_profile, "toml", lambda p: ["profiles", "check", str(p)],
         ("edgebert.profile_reader", "edgebert.device", "edgebert.derive", "tomllib._parser")),
    Kind("plan", "plan.json", lambda folder: [seeds.plan().encode()], _read_plan, "json", _inspect, _PLAN),
    Kind("tables", "tables.json", lambda folder: [seeds.small_tables().encode()], _read_tables, "json",
         lambda p: ["front", "--profile", "pixel6", "--tables", str(p), "--points", "2"], _PLAN),
    Kind("manifest", "manifest.json", _bundle, _read_manifest, "json", lambda p: ["verify", str(p.parent)], _PLAN),
    Kind("golden rows", "golden.json", _part_of_bundle("golden.json"), _read_golden, "json", _verify_words, _PLAN),
    Kind("bundle's tokenizer", "tokenizer.json", _part_of_bundle("tokenizer.json"), _verify, "json", _verify_words,
         _PLAN, share=0.1),
    Kind("results", "results.jsonl", _swept, _read_results, "jsonl",
         lambda p: ["calibrate", "--from", str(p), "--profile", "pixel6", "--out", str(p.parent / "pixel6.toml")],
         _RECORD),
    Kind("records", "records.jsonl", _records, _timings_of, "jsonl", lambda p: ["timings", str(p)], _RECORD),
    Kind("other tools' timings", "tool.txt", _benchmark_text, _timings_of, "text", lambda p: ["timings", str(p)],
         _RECORD),
    Kind("kit", "kit.json", _kit, _read_kit, "json", None, _PLAN),
    Kind("supernet", "supernet.json", _supernet, _read_supernet, "json",
         lambda p: ["fit-device", "--profile", "pixel6", "--supernet", str(p.parent), "--dry-run"], _PLAN),
    Kind("run's evidence", "results.json", _results, _read_evidence, "json", _inspect, _PLAN),
    _data("JSON lines", "jsonl", "jsonl"), _data("CSV", "csv", "csv"), _data("TSV", "tsv", "tsv"),
    _data("gzip", "jsonl.gz", "gz"), _data("Parquet", "parquet", "parquet"),
    Kind("task.json", "task.json", _task, _read_task, "json", lambda p: [
        "fit-device", "--profile", "pixel6", "--model", str(p.parent), "--data", str(p.parent), "--dry-run"], _DATA),
    Kind("saved dataset's state", "saved/state.json", _saved, lambda p: _read_data(p.parent), "json", _fit, _DATA,
         share=0.3),
    Kind("saved dataset's info", "saved/dataset_info.json", _saved_info, lambda p: _read_data(p.parent), "json", _fit,
         _DATA, share=0.3),
    Kind("config", "config.json", _part_of_checkpoint("config.json"), _read_config, "json", _inspect_folder, _CHECKPOINT),
    Kind("checkpoint's config", "config.json", _part_of_checkpoint("config.json"), _read_checkpoint, "json", _export,
         _CHECKPOINT, share=0.4),
    Kind("safetensors", "model.safetensors", _part_of_checkpoint("model.safetensors"), _read_checkpoint, "safetensors",
         _export, _CHECKPOINT, share=0.4),
    Kind("tokenizer", "tokenizer.json", _part_of_checkpoint("tokenizer.json"), _read_tokenizer, "json", _export,
         ("edgebert.tokenization",)),
    Kind("tokenizer's settings", "tokenizer_config.json", _part_of_checkpoint("tokenizer_config.json"), _read_tokenizer,
         "json", _export, ("edgebert.tokenization",)),
    Kind("ONNX", "model_fp32.onnx", _onnx, _run_model, "onnx", _verify_words, apart=True),
    Kind("TFLite", "model.tflite", _tflite, _run_model, "tflite", _verify_words, apart=True),
    Kind("library", "libx.so", _library, _read_libraries, None, lambda p: ["doctor", "--libraries", str(p)],
         ("edgebert.elf",)),
    Kind("archive of libraries", "app.apk", _archive, _read_libraries, None,
         lambda p: ["doctor", "--libraries", str(p)], ("edgebert.elf", "zipfile")),
)}
