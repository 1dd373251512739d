"""Runs that are killed, starved and repeated on a checkpoint so small that one takes seconds: `python -m tests.faults`.
"""
