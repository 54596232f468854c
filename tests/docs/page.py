"""Runs the blocks of a page, given as JSON on the standard input; its last line is the JSON list of what each printed.

Blocks of Python share one namespace, as if they were one program; those of sh share the folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import traceback
import types
from typing import Any


def run(block: dict[str, Any], page: types.ModuleType) -> str:
    """What a block prints; exits with the block and its error when it goes wrong."""
    if block["language"] == "sh":
        command = ["bash", "-euo", "pipefail", "-c", block["text"]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != block["code"]:
            sys.exit(f"exit code {done.returncode}:\n{block['text']}\n{done.stdout}\n{done.stderr}")
        return done.stdout
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(block["text"], "<page>", "exec"), vars(page))
    except Exception:
        sys.exit(f"{block['text']}\n{printed.getvalue()}\n{traceback.format_exc()}")
    return printed.getvalue()


if __name__ == "__main__":
    sys.path.insert(0, "")  # modules that the page writes
    module = sys.modules["page"] = types.ModuleType("page")
    print(json.dumps([run(block, module) for block in json.load(sys.stdin)]))
