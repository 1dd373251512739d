"""`edgebert compare`: how many times as fast one bundle or model file is as another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgebert import cli_options as options
from edgebert.cli_options import Clock
from edgebert.errors import UsageError

EXAMPLES = """Examples:

  edgebert compare bundle-fp32 bundle-int8

  edgebert compare bundle/model_qint8.onnx bundle/model_qint8.tflite --length 64

  edgebert compare bundle-before bundle-after --device ssh:pi@board.local --runs 662"""


def compare(a: Annotated[Path, typer.Argument(help="A bundle, or an .onnx or .tflite file.")],
            b: Annotated[Path, typer.Argument(help="The other one.")],
            device: options.Device = "local",
            device_python: options.DevicePython = None,
            threads: Annotated[int, typer.Option(rich_help_panel=options.DEVICE, help="Of the runtime.")] = 1,
            length: Annotated[int | None, typer.Option(help="Tokens of a row. Default: the files' own.")] = None,
            runs: options.Runs = 200,
            affinity: options.Affinity = None,
            clock: Annotated[Clock, typer.Option(help="wall, or cpu: CPU time of one thread, for a machine that is not "
                                                 "idle.")] = Clock.wall,
            as_json: Annotated[bool, typer.Option("--json", help="One record a line, with samples.")] = False) -> None:
    """Tell how many times as fast B is as A: timed in turn, with a 95 % interval."""
    from device_bench.affinity import parse_mask
    from device_bench.errors import BenchError
    from device_bench.options import Options
    from edgebert.benching import require_golden
    from edgebert.comparing import compare as run

    try:
        asked = Options(threads=threads, length=length, runs=runs, clock=clock.value,
                          cores=None if affinity is None else parse_mask(affinity))
    except BenchError as error:
        raise UsageError(str(error)) from error
    found = run(a, b, asked, device, device_python)
    for one in found:
        if as_json:
            print(one.to_json())
            continue
        print(one.sentence())
        for reason in one.reasons():
            print(f"  not valid: {reason}")
    require_golden([record for one in found for record in (one.a, one.b)], device)
