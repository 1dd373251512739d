"""Errors a person is meant to read: one line each, and the exit code the command ends with."""

from __future__ import annotations


class EdgeBertError(Exception):
    """Base of every expected failure. The command line prints the message alone and ends with `exit_code`."""

    exit_code = 1


class Interrupted(EdgeBertError):
    """Ctrl-C or a polite kill."""

    exit_code = 130


class UsageError(EdgeBertError):
    """Bad input: a wrong flag, file, column, profile or checkpoint."""

    exit_code = 2


class BudgetError(EdgeBertError):
    """No plan satisfies the budget."""

    exit_code = 3


class AccuracyError(EdgeBertError):
    """The compressed model lost more than `--max-drop` allows."""

    exit_code = 5


class DeviceError(EdgeBertError):
    """The target cannot be reached, lacks a runtime, or gave an impossible answer."""

    exit_code = 6


class OverBudgetError(EdgeBertError):
    """The measured latency, memory or size is above the budget."""

    exit_code = 7


class TrainingError(EdgeBertError):
    """Training lost its way: a loss or a gradient is not finite, or a process of the run has ended."""

    exit_code = 8
