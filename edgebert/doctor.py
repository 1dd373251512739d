"""What is installed here, whether it computes right, and what to do about what is not. No torch is imported."""

from __future__ import annotations

import mmap
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from device_bench.child import bench_in_child
from device_bench.errors import BenchError
from device_bench.options import RUNTIMES, Options
from edgebert.cache import default_cache
from edgebert.elf import PAGE, Library, libraries
from edgebert.errors import EdgeBertError
from edgebert.runlog import silenced

GOLDEN = Path(__file__).resolve().parent / "golden"
"""A tiny network in every format, int8 per channel, beside the logits torch gives for it."""

PYTHON = (3, 11)
ENOUGH_GB, LEAST_GB = 5.0, 0.5
"""Free disk: what a run with all its caches takes, and what no file can be written without."""


class Unwell(EdgeBertError):
    """Something that edgebert needs is broken or answers wrongly."""

    exit_code = 1
    code = "EB-UNWELL"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. state: "ok"; "note": missing or good to know, nothing is broken; "wrong". fix: what to do."""

    name: str
    state: Literal["ok", "note", "wrong"]
    detail: str
    fix: str = ""


Installed = Callable[[str], tuple[int, ...] | None]


def examine(extra_libraries: tuple[Path, ...] = ()) -> tuple[Finding, ...]:
    """Every check, in the order a person reads them. extra_libraries: libraries, folders or archives that an app ships.
    Raises UsageError where one of these is no library."""
    shipped = tuple(shipped_libraries(extra_libraries))  # first: a wrong path is refused before anything is run
    return (_python(), *_packages(), *known_wrong(installed), *_runtimes(), *_fast_paths(), *_programs(), *_disk(),
            _telemetry(), *_own_libraries(), *shipped)


def require_well(findings: tuple[Finding, ...]) -> None:
    """Raises Unwell (exit code 1) naming what is wrong."""
    if wrong := [one.name for one in findings if one.state == "wrong"]:
        raise Unwell(f"{len(wrong)} of {len(findings)} checks failed: {', '.join(wrong)}")


def installed(package: str) -> tuple[int, ...] | None:
    """The leading numbers of an installed version, None where it is not installed."""
    try:
        return tuple(map(int, re.findall(r"\d+", metadata.version(package).partition("+")[0])[:3]))
    except metadata.PackageNotFoundError:
        return None


def _written(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _python() -> Finding:
    version = platform.python_version()
    name = f"{platform.python_implementation()} {version}, {platform.system()} {platform.machine()}"
    if tuple(map(int, platform.python_version_tuple()[:2])) < PYTHON:
        return Finding("python", "wrong", name, f"install Python {_written(PYTHON)} or later")
    return Finding("python", "ok", name)


def _packages() -> Iterator[Finding]:
    """One line for each extra of the distribution."""
    for extra, needs in wanted(metadata.requires("edgebert") or []).items():
        yield extra_of(extra, needs, installed)


def wanted(requirements: Iterable[str]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Extra -> package -> least version, of requirements as a distribution's metadata has them. Extras that only name
    others, and the developers' own, are left out."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for text in requirements:
        need = re.match(r"([\w.-]+)(\[.*?\])?(?:[>=]=([\d.]+))?.*?;.*extra == ['\"](\w+)['\"]", text)
        if need and need[1] != "edgebert" and need[4] != "dev":
            found.setdefault(need[4], {})[need[1]] = tuple(map(int, (need[3] or "0").split(".")))
    return found


def extra_of(extra: str, needs: Mapping[str, tuple[int, ...]], version: Installed) -> Finding:
    """Whether what an extra needs is here, and new enough. version: `installed`, or a stand-in for it."""
    have = {name: own for name in needs if (own := version(name)) is not None}
    missing = [name for name in needs if name not in have]
    old = [f"{name} {_written(own)} is older than {_written(needs[name])}" for name, own in have.items()
           if own < needs[name]]
    listed = ", ".join(f"{name} {_written(own)}" for name, own in have.items())
    fix = f"pip install --upgrade 'edgebert[{extra}]'"
    if old:
        return Finding(f"extra {extra}", "wrong", ", ".join(old), fix)
    if missing:
        return Finding(f"extra {extra}", "note", f"{', '.join(missing)} not installed{'; ' if have else ''}{listed}", fix)
    return Finding(f"extra {extra}", "ok", listed)


def known_wrong(version: Installed) -> Iterator[Finding]:
    """Versions that are known to answer wrongly, not to work together, or to be another package of the same name.
    version: `installed`, or a stand-in for it."""
    if (old := version("tflite-runtime")) is not None and old <= (2, 14, 0):
        alone = version("ai-edge-litert") is None
        yield Finding("tflite-runtime", "wrong" if alone else "note",
                      f"{_written(old)} answers zeros, without an error, for files of int8 with a scale per channel",
                      "pip install ai-edge-litert, or make files for it with --tflite-compat 2.14")
        if (numpy := version("numpy")) is not None and numpy >= (2,):
            yield Finding("tflite-runtime and numpy", "wrong" if alone else "note",
                          f"tflite-runtime {_written(old)} does not start with numpy {_written(numpy)}",
                          "give it an environment of its own with 'numpy<2'")
    transformers = version("transformers")
    if version("optimum-onnx") is not None and transformers is not None and transformers >= (4, 58):
        yield Finding("optimum-onnx and transformers", "wrong",
                      f"optimum-onnx cannot be used with transformers {_written(transformers)}",
                      "give optimum-onnx an environment of its own with 'transformers<4.58'")
    if (runtime := version("onnxruntime")) is not None and runtime < (1, 20):
        yield Finding("onnxruntime", "wrong", f"{_written(runtime)} restores weights of 8 or 4 bits to float in every "
                      "call, and knows no 4-bit constants", "pip install 'onnxruntime>=1.20'")
    if version("torch") is not None and version("nvidia-cublas-cu12") is not None:
        yield Finding("torch", "note", "the build for NVIDIA's cards is installed: several GB that edgebert does not use",
                      "pip install with --constraint constraints.txt, which pins a version that has a build without them")
    found = util.find_spec("exporters")
    if found is None or found.origin is None or not (Path(found.origin).parent / "artifact.py").is_file():
        yield Finding("exporters", "wrong", f"the package of this name at {found and found.origin} is another project's",
                      "give edgebert an environment without it")


def _runtimes() -> Iterator[Finding]:
    """Each runtime that is installed runs the golden network in a process of its own."""
    from device_bench.inputs import find_golden

    for form, names in RUNTIMES.items():
        path = GOLDEN / f"model_qint8.{form}"
        have = [name for name in names if util.find_spec(name) is not None]
        if not have:
            yield Finding(f"runtime for .{form}", "note", f"none of {', '.join(names)} is installed",
                          f"pip install {names[0].replace('_', '-')}")
        golden = find_golden(path)
        assert golden is not None, "it ships with the package"
        for name in have:
            yield run_golden(path, name, len(golden.rows))


def run_golden(path: Path, runtime: str, rows: int) -> Finding:
    """Whether a runtime gives torch's logits for `rows` golden rows beside the file, within the bound that lies there."""
    try:
        record = bench_in_child(path, Options(runtime=runtime, runs=3, warmup=1, max_seconds=2.0), timeout_s=120).result()
    except BenchError as error:
        return Finding(runtime, "wrong", str(error).splitlines()[-1], f"pip install --force-reinstall "
                       f"{runtime.replace('_', '-')}")
    found = record.golden
    if found is None or found.relative_rmse is None:
        said = f"{record.runtime_version} gives no finite answer"
    else:
        said = (f"{record.runtime_version}: {rows} golden rows of int8, relative RMSE {found.relative_rmse:.3f} "
                f"(allowed {found.bound:g})")
    if found is None or not found.ok:
        return Finding(runtime, "wrong", f"{said}: it computes something else",
                       "do not ship or measure files with this version; install the one in constraints.txt")
    return Finding(runtime, "ok", said)


def _fast_paths() -> Iterator[Finding]:
    """Whether the kernels that make int8 fast are there."""
    from exporters.artifact import ExportError
    from exporters.execution import execution_of

    names = {"tflite": ("XNNPACK", ("ai_edge_litert",)), "onnx": ("integer kernels", ("onnx", "onnxruntime"))}
    for form, (name, needs) in names.items():
        if any(util.find_spec(one) is None for one in needs):
            continue
        try:
            with silenced(2):
                found = execution_of(GOLDEN / f"model_qint8.{form}")
        except ExportError as error:
            yield Finding(name, "wrong", str(error), f"pip install --force-reinstall {needs[-1].replace('_', '-')}")
            continue
        what = "nodes run in the delegate" if form == "tflite" else "products with weights are one kernel each"
        said = f"{found.runtime}: {found.delegated} of {found.total} {what}"
        good = found.delegated > 0 and not found.float_products
        yield Finding(name, "ok" if good else "wrong", said, "" if good else
                      f"files will be several times slower: install {needs[-1]} as constraints.txt has it")


def _programs() -> Iterator[Finding]:
    """The programs that reach devices are there, and start."""
    for names, ask, wanted_for in ((("adb",), "version", "--device adb:SERIAL"),
                                   (("ssh", "scp"), "-V", "--device ssh:user@host")):
        package = "adb" if "adb" in names else "openssh-client"
        fix = f"install the package that has {names[0]} ({package} on Debian)"
        name, missing = " and ".join(names), [one for one in names if shutil.which(one) is None]
        if missing:
            yield Finding(name, "note", f"{' and '.join(missing)} not found: no {wanted_for}", fix)
            continue
        try:
            done = subprocess.run([names[0], ask], capture_output=True, text=True, timeout=20, errors="replace")
            said, works = (done.stdout + done.stderr).strip().splitlines()[:1], done.returncode == 0
        except (OSError, subprocess.TimeoutExpired) as error:
            said, works = [str(error)], False
        where = ", ".join(str(shutil.which(one)) for one in names)
        yield Finding(name, "ok" if works else "wrong", f"{where}: {''.join(said) or 'no answer'}", "" if works else fix)


def _disk() -> Iterator[Finding]:
    """The cache can be written, and there is room."""
    folder = default_cache()
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield Finding("cache", "wrong", f"{folder} cannot be written ({error.strerror})",
                      "set EDGEBERT_CACHE to a folder of yours, or pass --cache")
    else:
        yield Finding("cache", "ok", f"{folder}{'' if folder.exists() else ', to be made'}")
    free = shutil.disk_usage(there).free / 1e9
    state: Literal["ok", "note", "wrong"] = "ok" if free >= ENOUGH_GB else "note" if free >= LEAST_GB else "wrong"
    yield Finding("disk", state, f"{free:.1f} GB free at {there}",
                  "" if state == "ok" else f"a run with all its caches takes up to {ENOUGH_GB:g} GB: free some, or set "
                  "EDGEBERT_CACHE to another disk")


def _telemetry() -> Finding:
    """onnxruntime's wheels send usage data unless told not to; edgebert's own commands tell it."""
    value = os.environ.get("ORT_DISABLE_TELEMETRY")
    if value == "1":
        return Finding("telemetry of onnxruntime", "ok", "off in every command of edgebert (ORT_DISABLE_TELEMETRY=1)")
    return Finding("telemetry of onnxruntime", "wrong", f"ORT_DISABLE_TELEMETRY is {value or 'not set'}",
                   "set ORT_DISABLE_TELEMETRY=1 in the environment")


def _own_libraries() -> Iterator[Finding]:
    """The runtimes of this environment; pages of 16 KB matter where the same wheels would go onto such a machine."""
    for name in ("onnxruntime", "ai_edge_litert", "tflite_runtime"):
        spec = util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        found = list(libraries(Path(spec.origin).parent))
        short = [one for one in found if not one.fits]
        least = min(one.alignment for one in found)
        yield Finding(f"pages, {name}", "note" if short else "ok",
                      f"{len(found) - len(short)} of {len(found)} libraries load with pages of 16 KB (least alignment "
                      f"{least:,} bytes; this system's pages: {mmap.PAGESIZE:,})",
                      "fine here; check what your app ships with --libraries" if short else "")


def shipped_libraries(paths: tuple[Path, ...]) -> Iterator[Finding]:
    """Libraries that an app ships: each must load on devices with pages of 16 KB. Raises UsageError."""
    for path in paths:
        for one in libraries(path):
            yield Finding(f"library {_leaf(one)}", "ok" if one.fits else "wrong", one.text(), "" if one.fits else
                          "take a release built for it (onnxruntime-android 1.20 or later, litert 2.0 or later), or link "
                          f"with -z max-page-size={PAGE}; in an .apk, zipalign -P 16")


def _leaf(library: Library) -> str:
    return re.split(r"[/\\]", library.place)[-1]
