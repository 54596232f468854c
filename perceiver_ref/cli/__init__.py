"""The command `perceiver-ref`.

Exit codes: 0 all well, 1 a mismatch was found, 2 bad input or usage, which prints one line and no traceback.
"""

from .main import main

__all__ = ["main"]
