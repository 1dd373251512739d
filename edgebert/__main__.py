"""`python -m edgebert`, and what a launcher of several processes starts."""

from edgebert.cli import main

if __name__ == "__main__":
    main()
