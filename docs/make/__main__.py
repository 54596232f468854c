"""Writes pages of the documentation anew, in a clone: `python docs/make PAGE [ARGUMENTS]`."""

from __future__ import annotations

import sys
from importlib import import_module

PAGES = {
    "specification": "specification.command",
    "conventions": "conventions.page",
    "coverage": "kill_matrix",
    "exactness": "exactness",
    "results": "results",
    "trace": "trace_points",
    "terminal": "terminal_svg",
    "schemas": "schemas.write",
    "defaults": "defaults.page",
    "models": "descriptions.page",
}
"""Page -> the module whose `main` writes it."""


def main(arguments: list[str]) -> int:
    """The command: what the page's own returns, 2 for no such page."""
    if not arguments or arguments[0] not in PAGES:
        print(f"usage: python docs/make {{{','.join(PAGES)}}} ...", file=sys.stderr)
        return 2
    written: int = import_module(PAGES[arguments[0]]).main(arguments[1:])
    return written


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
