"""Two bundles or model files against each other, on this machine or a device: which is faster, and how sure that is."""

from __future__ import annotations

from pathlib import Path

from device_bench.child import compare_in_child
from device_bench.compare import Comparison
from device_bench.errors import BenchError
from device_bench.inputs import GOLDEN_NAME
from device_bench.options import Options
from device_bench.runtimes import model_format
from edgebert.bundle import check_files, file_sha256, model_files, read_manifest
from edgebert.errors import DeviceError, UsageError
from edgebert.remote.timing import BENCH, OPENING_S, failed, push_bench
from edgebert.remote.workspace import Device, open_device

LOCAL_TIMEOUT_S = 600.0


def compare(a: Path, b: Path, options: Options = Options(), device: str = "local",  # noqa: B008  (it is frozen)
            python: str | None = None) -> tuple[Comparison, ...]:
    """Compares the model files of A with those of B that have the same format, or the only file of each.

    a, b: a bundle or a model file. options: a `length` of None takes that of the files or of their golden rows, which
    must agree. device, python: as `remote.open_device` takes them.

    Raises UsageError for what cannot be compared, BrokenBundle (4) for changed files, DeviceError (6) where the device is
    not there, lacks a runtime or answers what is no comparison of these files.
    """
    pairs = _pairs(_files(Path(a)), _files(Path(b)))
    if device == "local" and python is None:
        return tuple(_compare_here(one, other, options) for one, other in pairs)
    target = open_device(device, python)
    return tuple(compare_on(target, one, other, options) for one, other in pairs)


def _files(path: Path) -> list[Path]:
    """The model files of a bundle whose hashes are right, or the file itself."""
    if not path.is_dir():
        return [path]
    check_files(path, read_manifest(path))
    return model_files(path)


def _pairs(a: list[Path], b: list[Path]) -> list[tuple[Path, Path]]:
    try:
        pairs = [(one, other) for one in a for other in b if model_format(one) == model_format(other)]
    except BenchError as error:
        raise UsageError(str(error)) from error
    if pairs:
        return pairs
    if len(a) == len(b) == 1:
        return [(a[0], b[0])]
    raise UsageError("the two have no format in common: name one file of each")


def _compare_here(a: Path, b: Path, options: Options) -> Comparison:
    """In a process of its own."""
    try:
        done = compare_in_child(a, b, options, LOCAL_TIMEOUT_S + options.max_seconds + options.cool_down)
    except BenchError as error:
        raise DeviceError(str(error)) from error
    if not done.line:
        words = (done.stderr.strip().splitlines() or ["no answer"])[-1].removeprefix("bench: ")
        raise (UsageError if done.exit_code == UsageError.exit_code else DeviceError)(words)
    return Comparison.from_json(done.line)


def compare_on(device: Device, a: Path, b: Path, options: Options) -> Comparison:
    """Compares two files on a device, each with the golden.json that lies beside it. Raises as `remote.bench_on`."""
    with device.workspace() as place:
        python = place.python(("numpy", *sorted({model_format(a), model_format(b)})))
        push_bench(place)
        for side, path in (("a", a), ("b", b)):
            place.push(path, f"{side}/{path.name}")
            golden = path.resolve().with_name(GOLDEN_NAME)
            if options.golden and golden.is_file():
                place.push(golden, f"{side}/{GOLDEN_NAME}")
        done = place.run([python, BENCH, "compare", *options.to_arguments(), "--", f"a/{a.name}", f"b/{b.name}"],
                         OPENING_S + 2 * options.max_seconds + options.cool_down)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise failed(device.name, f"{a.name} against {b.name}", done)
    try:
        found = Comparison.from_json(lines[-1])
    except ValueError as error:
        raise DeviceError(f"{device.name} answers something that is no comparison of {a.name} with {b.name} ({error}); "
                          f"log in and see what `{python}` prints") from error
    if (found.a.sha256, found.b.sha256) != (file_sha256(a), file_sha256(b)):
        raise DeviceError(f"{device.name} compared other files than {a.name} and {b.name}: its disk or memory may be bad")
    return found
