"""The wheel: what is in it, and that it works beside PyPI's `autograd`, whose name one of our folders has."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

FOLDERS = {"perceiver_ref": "perceiver_ref", "autograd": "perceiver_ref/autograd"}
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def expected(source: Path) -> set[str]:
    """Every file of the two package folders, under its name in the wheel."""
    return {
        f"{package}/{file.relative_to(source / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for file in (source / folder).rglob("*")
        if file.is_file()
    }


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path, source: Path) -> None:
    names = contents(wheel)
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == expected(source)
    assert {name.partition(".dist-info/")[2] for name in metadata} == METADATA
    assert {"perceiver_ref/py.typed", "perceiver_ref/autograd/core.py"} <= names
    assert any(name.startswith("perceiver_ref/porting/cases/packaged/hf/") for name in names)


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 5e6


def test_the_sdist_holds_the_source_tree_and_nothing_else(built, source: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
    names = {member.name.partition("/")[2] for member in members}
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    own = {name for name in files if ".egg-info/" not in name and not name.startswith("build/")}
    assert names - {"PKG-INFO"} == own - {".gitignore"}
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "docs/porting/encoder.c", "tests/conftest.py"} <= names
    assert {(member.uid, member.uname, member.mtime, member.mode & 0o22) for member in members} == {
        (0, "", built.epoch, 0)
    }


def test_building_again_elsewhere_gives_the_same_bytes(build_tree, built, tmp_path: Path) -> None:
    """From the sdist, in another folder, under another umask, later."""
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for path in [unpacked, *unpacked.rglob("*")]:
        path.chmod(path.stat().st_mode & 0o700)
    again = build_tree(unpacked, tmp_path / "again", umask=0o077)
    assert again.wheel.name == built.wheel.name
    assert again.wheel.read_bytes() == built.wheel.read_bytes()
    assert again.sdist.read_bytes() == built.sdist.read_bytes()


def test_it_leaves_the_other_autograd_alone(installed, tmp_path: Path) -> None:
    program = """
import hashlib, importlib.metadata as metadata
from base64 import urlsafe_b64encode

import numpy as np
import autograd, autograd.numpy as anp
import perceiver_ref, perceiver_ref.autograd as ours

assert autograd.__file__ != ours.__file__
for file in metadata.files("autograd"):
    if file.hash:
        digest = hashlib.new(file.hash.mode, file.locate().read_bytes()).digest()
        assert urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value, file
x = np.arange(3.0)
np.testing.assert_allclose(autograd.grad(lambda x: anp.sum(anp.sin(x) * x))(x), np.cos(x) * x + np.sin(x))
loss, gradient = ours.value_and_grad(lambda x: ours.ops.sum(ours.ops.multiply(x, x)))(x)
np.testing.assert_array_equal(gradient, 2 * x)
"""
    done = installed.run("python", "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_it_installs_one_top_level_name(installed) -> None:
    (record,) = installed.site_packages.glob("perceiver_ref-*.dist-info/RECORD")
    tops = {line.partition("/")[0] for line in record.read_text(encoding="utf-8").splitlines()}
    assert tops == {"perceiver_ref", record.parent.name, ".."}  # the last: the command, in bin


def test_the_command_runs_from_any_folder(installed, tmp_path: Path) -> None:
    done = installed.run("perceiver-ref", "check", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed" in done.stdout
    assert installed.run("python", "-m", "perceiver_ref", "info", cwd=tmp_path).returncode == 0


def test_importing_it_loads_no_other_package(installed, tmp_path: Path) -> None:
    program = "import sys, perceiver_ref; print(*sys.modules.keys() & {'numpy', 'scipy', 'cupy', 'safetensors'})"
    done = installed.run("python", "-c", program, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "")
