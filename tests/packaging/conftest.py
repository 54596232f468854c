"""What the tests of packaging share: the source tree, its wheel and sdist, and an environment that they are in."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (".ci", "autograd", "bench", "docs", "perceiver_ref", "tests")
EPOCH = 1_700_000_001
"""The date that archives are made with. It is odd: a ZIP archive has only even seconds."""
UNREACHABLE = ("after connection broken by", "Network is unreachable", "Temporary failure in name resolution")
"""What pip prints when the package index does not answer, as opposed to answering that it has no such package."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own, which sees neither the source tree nor the environment of the tests."""

    folder: Path

    def run(self, program: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs to its end."""
        executable = self.folder / ("Scripts" if os.name == "nt" else "bin") / program
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(executable), *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)

    def pip(self, *arguments: object) -> None:
        """Run pip; skips the test when the package index cannot be reached, and fails when pip does otherwise."""
        done = self.run("python", "-m", "pip", "--retries", "1", *arguments, cwd=self.folder)
        if done.returncode and any(sign in done.stderr + done.stdout for sign in UNREACHABLE):
            pytest.skip("the package index cannot be reached")
        assert done.returncode == 0, f"pip {' '.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}"

    @property
    def site_packages(self) -> Path:
        """Where packages are installed."""
        done = self.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=self.folder)
        return Path(done.stdout.strip())


def _environment(folder: Path) -> Environment:
    venv.create(folder, with_pip=True)
    return Environment(folder)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree, so that building leaves nothing behind in the original."""
    copy = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.py[cod]", "*.egg-info")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
        elif path.name in SOURCES:
            shutil.copytree(path, copy / path.name, ignore=ignored)
    return copy


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment to build in."""
    return _environment(tmp_path_factory.mktemp("builder"))


@dataclass(frozen=True)
class Built:
    """The two archives of a source tree, made in one folder."""

    wheel: Path
    sdist: Path
    epoch: int


def build(builder: Environment, source: Path, folder: Path, *, umask: int = 0o022) -> Built:
    """Build both as `python -m build` does, with the backend that pyproject.toml names, in the tree itself."""
    folder.mkdir(parents=True)
    program = f"""
import os, sys, tomllib
sys.dont_write_bytecode = True
os.umask({umask})
os.environ["SOURCE_DATE_EPOCH"] = "{EPOCH}"
system = tomllib.load(open("pyproject.toml", "rb"))["build-system"]
sys.path[:0] = system["backend-path"]
backend = __import__(system["build-backend"])
assert backend.get_requires_for_build_wheel() == backend.get_requires_for_build_sdist() == []
backend.build_sdist({str(folder)!r})
backend.build_wheel({str(folder)!r})
"""
    done = builder.run("python", "-c", program, cwd=source)
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist, EPOCH)


@pytest.fixture(scope="session")
def build_tree(builder: Environment) -> Callable[..., Built]:
    """`build`, with the environment to do it in."""
    builder.pip("install", "setuptools>=77")
    return partial(build, builder)


@pytest.fixture(scope="session")
def built(build_tree: Callable[..., Built], source: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both archives of the source tree."""
    return build_tree(source, tmp_path_factory.mktemp("built") / "first")


@pytest.fixture(scope="session")
def wheel(built: Built) -> Path:
    """The wheel of the source tree."""
    return built.wheel


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment that holds PyPI's `autograd`, then the wheel."""
    made = _environment(tmp_path_factory.mktemp("installed"))
    made.pip("install", "autograd==1.9.1")
    made.pip("install", wheel)
    return made
