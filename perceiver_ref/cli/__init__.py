"""The command `perceiver-ref`.

main      parsing, errors as one line, exit codes
table     the commands, with examples of each; the module of each is called like it
weights   options of commands that are given weights
result    tables, and what --json writes
places    which options name what is read and what is written
streams   stdout and stderr whose reader may be gone
words     words that have a colour on a terminal

Exit codes: 0 all well, 1 a mismatch was found, 2 bad input or usage, which prints one line and no traceback;
128 and its number for a signal that stopped the command.
"""

import sys
from collections.abc import Sequence

from ..errors import one_line

try:
    from .main import main
except ValueError as error:  # an environment variable, which is read when its module is first imported
    if "PERCEIVER_REF_" not in str(error):
        raise
    _wrong = one_line(error, 170)

    def main(arguments: Sequence[str] | None = None) -> int:
        """What `main.main` is where an environment variable can be used: it runs a command."""
        print(f"perceiver-ref: error: {_wrong}", file=sys.stderr)
        return 2


__all__ = ["main"]
