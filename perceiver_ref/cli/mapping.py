"""Options of commands that take a port under names of its own: its map, and a peer of one's own."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..errors import InputError, one_line
from ..host.files import AnyPath, existing_file
from ..porting.cases import Case, read_case


def mapping(command: argparse.ArgumentParser) -> None:
    """`--map` and `--peer-file`."""
    command.add_argument("--map", metavar="F", help="the map of names that `perceiver-ref bind --out F` wrote")
    peer_file(command)


def reader(map_path: str | None) -> Callable[[AnyPath], Case]:
    """What reads a case file: as it is, or by a map; a note on stderr says that a map is not verified."""
    if map_path is None:
        return read_case
    from ..porting.bind.files import UNVERIFIED, read_mapped
    from ..porting.bind.maps import read_map

    if not read_map(map_path).verified:
        print(f"note: {UNVERIFIED}", file=sys.stderr)
    return partial(read_mapped, map_path=map_path)


def peer_file(command: argparse.ArgumentParser) -> None:
    """`--peer-file`."""
    command.add_argument(
        "--peer-file",
        metavar="F",
        help="a Python file, which is run, that registers a peer of your own (docs/EXTENDING.md)",
    )


def load_peer_file(path: str | None) -> None:
    """Run a file that adds to `perceiver_ref.peers.PEERS`, or whose `PEER` is to be added; `InputError` where it does
    neither, or fails."""
    if path is None:
        return
    from ..peers import PEERS, Peer

    existing_file(path, "a Python file of a peer")
    if Path(path).suffix != ".py":
        raise InputError(f"--peer-file {path}: expected a Python file, .py, as docs/EXTENDING.md describes")
    before = {name: PEERS._rows.get(name) for name in PEERS}
    try:
        made = runpy.run_path(path, run_name="perceiver_ref_peer")
    except Exception as error:
        raise InputError(f"--peer-file {path}: {type(error).__name__}: {one_line(error)}") from None
    found = made.get("PEER")
    if isinstance(found, Peer):
        PEERS[found.name] = found
    elif {name: PEERS._rows.get(name) for name in PEERS} == before:
        raise InputError(f"--peer-file {path} registers no peer: add it to perceiver_ref.peers.PEERS, or name it PEER")
