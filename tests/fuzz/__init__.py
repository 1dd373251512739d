"""Hostile input: files as a stranger may send them, given to the readers that every command reads them with.

    python -m tests.fuzz --inputs 12000 --seed 1        the whole run; its figures stand in docs/reliability.md

`kinds.py` says which files there are and who reads them, `trees.py` breaks their structure (Hypothesis), `raw.py` their
bytes (Atheris, led by coverage of the readers), `child.py` runs one kind under limits on memory and time.
"""
