"""`optimum-cli edgebert ...`: the commands of edgebert under optimum's own program.

optimum looks for commands of other packages in this folder, a namespace that many distributions share: no __init__.py
may stand in it or above it. It imports the file at every start, so nothing heavy is imported here.
"""

from __future__ import annotations

import sys
from argparse import REMAINDER, ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

NAME = "edgebert"


class EdgeBertCommand(BaseOptimumCLICommand):
    """Hands all words on, and ends with the exit code that they give."""

    COMMAND = CommandInfo(name=NAME, help="Turn a fine-tuned BERT into the best model that fits a phone.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("words", nargs=REMAINDER, metavar="COMMAND ...",
                            help="as for the program edgebert; none lists the commands, COMMAND --help explains one")

    def run(self) -> None:
        from edgebert.cli import main

        sys.argv = [f"optimum-cli {NAME}", *self.args.words]
        main()


REGISTER_COMMANDS = [EdgeBertCommand]
