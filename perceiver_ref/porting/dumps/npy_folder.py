"""A folder of `.npy` files: names are paths without the ending, `output/logits.npy`; `meta.json` makes it a case."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ...host.files import existing_file
from ...host.memory import require
from .containers import read_npy_file
from .held import META, MOST, Held, beside, read_json_of, text_array

META_FILE = "meta.json"
_META = 64 << 20


def held_npy_folder(folder: Path) -> Held:
    """Every `.npy` file of a folder and of those below it, in the order of their paths; links out of it are refused."""
    files = npy_files(folder)
    if len(files) > MOST:
        raise InputError(f"{folder} holds more than {MOST:,} .npy files; give a folder of fewer")
    index = folder / META_FILE
    made = Held({})
    total = 0
    for path in files:
        relative = path.relative_to(folder)
        beside(index, relative.as_posix())
        total += path.stat().st_size
        require(str(folder), total)
        made.add(folder, relative.with_suffix("").as_posix(), *read_npy_file(path))
    if index.exists():
        beside(index, META_FILE)
        made.add(
            folder, META, text_array(read_json_of(existing_file(index, "a case's meta"), "a case's meta", _META), index)
        )
    return made


def npy_files(folder: Path) -> list[Path]:
    """The `.npy` files of a folder and below, sorted."""
    return sorted(path for path in folder.rglob("*.npy") if not path.is_dir())
