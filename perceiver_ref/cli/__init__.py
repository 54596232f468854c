"""The command `perceiver-ref`.

main      parsing, errors as one line, exit codes
table     the commands, with examples of each; the module of each is called like it
weights   options of commands that are given weights
result    tables, and what --json writes
words     words that have a colour on a terminal

Exit codes: 0 all well, 1 a mismatch was found, 2 bad input or usage, which prints one line and no traceback.
"""

from .main import main

__all__ = ["main"]
