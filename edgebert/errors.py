"""Errors a person is meant to read: one line each, and the exit code the command ends with."""

from __future__ import annotations

import errno

from device_bench.errors import told


class EdgeBertError(Exception):
    """Base of every expected failure. The command line prints the message with `code` and ends with `exit_code`. A code
    keeps its meaning for good, and is a heading of docs/errors.md."""

    exit_code = 1
    code = "EB-ERROR"


class Interrupted(BaseException):
    """Ctrl-C, a polite kill, or a terminal that was closed. No Exception, so that no `except Exception`, here or in a
    library, takes it for a failure of what it was doing."""

    exit_code = 130
    code = "EB-INTERRUPTED"


class UsageError(EdgeBertError):
    """Bad input: a wrong flag, file, column, profile or checkpoint."""

    exit_code = 2
    code = "EB-USAGE"


class BudgetError(EdgeBertError):
    """No plan satisfies the budget."""

    exit_code = 3
    code = "EB-BUDGET"


class AccuracyError(EdgeBertError):
    """The compressed model lost more than `--max-drop` allows."""

    exit_code = 5
    code = "EB-ACCURACY"


class DeviceError(EdgeBertError):
    """The target cannot be reached, lacks a runtime, or gave an impossible answer."""

    exit_code = 6
    code = "EB-DEVICE"


class OverBudgetError(EdgeBertError):
    """The measured latency, memory or size is above the budget."""

    exit_code = 7
    code = "EB-OVER-BUDGET"


class TrainingError(EdgeBertError):
    """Training lost its way: a loss or a gradient is not finite, or a process of the run has ended."""

    exit_code = 8
    code = "EB-TRAINING"


class BusyError(EdgeBertError):
    """Another run is making the same folder."""

    exit_code = 9
    code = "EB-BUSY"


NO_MEMORY = ("can't allocate memory", "std::bad_alloc", "bad allocation", "Failed to allocate memory")
"""What torch and the runtimes say where no memory is left; their exceptions are of no class of their own."""


def failure(error: BaseException) -> tuple[str, int] | None:
    """The line that the command line prints for an error, and its exit code; None for what nobody expected, which keeps
    its traceback so that it can be reported."""
    code = getattr(error, "exit_code", None)
    if isinstance(error, (Exception, Interrupted)) and code is not None:
        return told(str(error)), code
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return ("this machine has too little memory for it; finished stages are kept: stop other programs, or take a "
                "smaller model or shorter inputs, and run the same command with --resume"), 2
    if isinstance(error, OSError):
        full = " (free some space; finished stages are kept)" if error.errno == errno.ENOSPC else ""
        return f"{error.filename or 'file system'}: {error.strerror or error}{full}", 2
    if isinstance(error, ModuleNotFoundError):
        extra = {"onnx": "onnx", "onnxruntime": "onnx", "huggingface_hub": "hub"}.get(str(error.name), "all")
        return f"the package {error.name!r} is not installed; pip install 'edgebert[{extra}]' brings what this needs", 2
    if isinstance(error, RecursionError):
        return "an input file is nested too deeply to be read", 2
    if type(error).__name__ == "PanicException":  # a library in Rust gave up, with a class of its own
        return told(f"a library cannot read an input file: {error}"), 2
    if type(error).__name__ == "SafetensorError":  # a full disk, mostly; the class is not imported for --help
        return f"weights cannot be stored: {error}; finished stages are kept", 2
    return None


WITHOUT_CODE = {2: UsageError.code, 4: "EB-BUNDLE", 6: DeviceError.code}
"""Exit code -> code of the errors of packages below, which know no codes."""


def code_of(error: BaseException) -> str:
    """The code of an error that `failure` has a line for."""
    own = getattr(error, "code", None)
    if isinstance(own, str):
        return own
    if isinstance(error, ModuleNotFoundError):
        return "EB-INSTALL"
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        return "EB-FILES"
    return WITHOUT_CODE.get(getattr(error, "exit_code", UsageError.exit_code), EdgeBertError.code)


def page_of(code: str) -> str:
    """Where a code is explained."""
    return f"docs/errors.md#{code.lower()}"
