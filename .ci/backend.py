"""The build backend: setuptools, with archives that are the same bytes whenever SOURCE_DATE_EPOCH is the same.

Setuptools writes into an sdist when, by whom and under which umask it was made, and what it noted while doing so. Here
every file has one date, one owner and one of two modes, members are sorted, and the notes are left out.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the other hooks, as they are


def build_sdist(folder: str, settings: dict[str, Any] | None = None) -> str:
    """PEP 517: write an sdist into the folder; returns its name."""
    name: str = build_meta.build_sdist(folder, settings)
    path = Path(folder) / name
    with tarfile.open(path) as given:
        files = [m for m in given.getmembers() if m.isfile() and not _is_note(m.name)]
        members = [(m, given.extractfile(m).read()) for m in files]  # type: ignore[union-attr]
    date = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=date) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as made,
    ):
        for member, content in sorted(members, key=lambda pair: pair[0].name):
            plain = tarfile.TarInfo(member.name)
            plain.size, plain.mtime, plain.mode = len(content), date, 0o755 if member.mode & 0o100 else 0o644
            made.addfile(plain, io.BytesIO(content))
    return name


def build_wheel(folder: str, settings: dict[str, Any] | None = None, metadata: str | None = None) -> str:
    """PEP 517: write a wheel into the folder; returns its name."""
    name: str = build_meta.build_wheel(folder, settings, metadata)
    path = Path(folder) / name
    with zipfile.ZipFile(path) as given:
        members = [(info, given.read(info)) for info in given.infolist()]
    with zipfile.ZipFile(path, "w") as made:
        for info, content in members:
            plain = zipfile.ZipInfo(info.filename, info.date_time)  # setuptools has the date right
            plain.compress_type, plain.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            made.writestr(plain, content)
    return name


def _is_note(name: str) -> bool:
    """Whether setuptools wrote the file for itself."""
    inside = name.partition("/")[2]
    return inside == "setup.cfg" or ".egg-info/" in inside
