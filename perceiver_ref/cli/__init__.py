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

from .main import main

__all__ = ["main"]
