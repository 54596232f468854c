"""pytest --perceiver-vectors PACK --perceiver-adapter module:function: one test for each case of a pack.

The adapter is a function of a case (`perceiver_ref.porting.cases.Case`) that returns outputs by name, or a dict with
"outputs" and, where it has them, "gradients" and "trace". For what the port does not have it returns `NotImplemented`,
alone or with a reason: `return NotImplemented, "no audio"`.

pytest imports this module whenever the package is installed, so that nothing is imported here that is not needed then.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

_PARTS = ("outputs", "gradients", "trace")
_INDEX = "index.json"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that switch the plugin on."""
    group = parser.getgroup("perceiver", "vectors of perceiver-ref")
    group.addoption("--perceiver-vectors", metavar="PACK", help="a folder of cases, or one: see perceiver-ref export")
    group.addoption("--perceiver-adapter", metavar="MODULE:FUNCTION", help="runs a case in what is under test")
    group.addoption(
        "--perceiver-dtype",
        choices=("float64", "float32", "float16"),
        help="precision computed in (default: the case's)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the cases of the pack to what pytest found, before -k and -m choose."""
    vectors, adapter = config.getoption("--perceiver-vectors"), config.getoption("--perceiver-adapter")
    if vectors is None and adapter is None:
        return
    if vectors is None or adapter is None:
        raise pytest.UsageError("--perceiver-vectors PACK and --perceiver-adapter MODULE:FUNCTION go together")
    pack = Pack.from_parent(
        session,
        name="perceiver-vectors",
        nodeid="perceiver-vectors",
        path=Path(vectors).absolute(),
        adapter=_adapter(adapter, config.invocation_params.dir),
        dtype=config.getoption("--perceiver-dtype"),
    )
    items.extend(pack.collect())


class Pack(pytest.Collector):
    """The cases of a folder, by the ids of its index, or by the paths of the files where it has none."""

    def __init__(self, *, path: Path, adapter: Callable[..., Any], dtype: str | None, **options: Any) -> None:
        super().__init__(path=path, **options)
        self.folder, self.adapter, self.dtype = path, adapter, dtype

    def collect(self) -> Iterable[CaseItem]:
        """An item a case."""
        return [CaseItem.from_parent(self, name=name, file=file) for name, file in _cases(self.folder)]


class CaseItem(pytest.Item):
    """One case: run the adapter on it and compare."""

    def __init__(self, *, file: Path, **options: Any) -> None:
        super().__init__(**options)
        self.file = file

    def runtest(self) -> None:
        """Compare outputs, then gradients and traced values where there are any."""
        from .porting.cases import read_case
        from .testing import assert_matches

        assert isinstance(self.parent, Pack)
        case = read_case(self.file)
        try:
            answer = self.parent.adapter(case)
        except NotImplementedError as error:
            pytest.skip(str(error) or "not implemented")
        answer = _answered(answer)
        for what in _PARTS:
            if answer.get(what) is not None:
                assert_matches(answer[what], case, what=what, dtype=self.parent.dtype)  # type: ignore[arg-type]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *arguments: Any) -> Any:
        """What differs, alone: the traceback would be this plugin's. Errors of the adapter keep theirs."""
        if excinfo.errisinstance(AssertionError) or type(excinfo.value).__name__ == "InputError":
            last = excinfo.traceback[-1].path
            if Path(str(last)).parent == Path(__file__).parent:
                return str(excinfo.value)
        return super().repr_failure(excinfo, *arguments)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where the case is."""
        return self.file, None, f"perceiver-vectors::{self.name}"


def _answered(answer: Any) -> Mapping[str, Any]:
    """What an adapter returned, by part; skips the test where it has none."""
    reason = ""
    if isinstance(answer, tuple) and len(answer) == 2 and answer[0] is NotImplemented:
        answer, reason = answer
    if answer is NotImplemented:
        pytest.skip(str(reason) or "not implemented")
    if not isinstance(answer, Mapping) or not answer:
        from .errors import InputError

        raise InputError(
            f'the adapter returned {type(answer).__name__}; expected a dict of outputs by name, a dict of "outputs", '
            f'"gradients" and "trace", or NotImplemented'
        )
    if "outputs" in answer and set(answer) <= set(_PARTS):
        return answer
    return {"outputs": answer}


def _cases(path: Path) -> Iterator[tuple[str, Path]]:
    """(id, file) of every case."""
    if path.is_file():
        yield path.stem, path
        return
    if not path.is_dir():
        raise pytest.UsageError(
            f"--perceiver-vectors: {path} is not there; perceiver-ref export --pack {path} makes it"
        )
    from .porting.dumps import case_files, is_case

    index = path / _INDEX
    if is_case(path):
        yield path.name, path
        return
    if not index.exists():
        files = case_files(path)
        if not files:
            raise pytest.UsageError(f"--perceiver-vectors: {path} holds neither {_INDEX} nor .npz files")
        yield from ((file.relative_to(path).with_suffix("").as_posix(), file) for file in files)
        return
    from .host import json_text

    try:
        rows = json_text.parse(index.read_bytes())["cases"]
        found = [(str(row["id"]), _file(path, row)) for row in rows]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise pytest.UsageError(f"--perceiver-vectors: {index} is no index of cases ({error!r})") from None
    for _, file in found:
        if not file.is_file():
            raise pytest.UsageError(f"--perceiver-vectors: {index} names {file}, which does not exist")
    yield from found


def _file(folder: Path, row: Mapping[str, Any]) -> Path:
    """The case of a row of the index: its `.npz` file, or where that is not there its `.safetensors` file."""
    files = [folder / str(row[key]) for key in ("file", "safetensors") if key in row]
    return next((file for file in files if file.is_file()), files[0])


def _adapter(name: str, folder: Path) -> Callable[..., Any]:
    """The function that `module:function` names, the folder that pytest was started in being on the path."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise pytest.UsageError(f"--perceiver-adapter: {name!r} is not MODULE:FUNCTION, such as my_adapter:run")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise pytest.UsageError(f"--perceiver-adapter: {module_name} cannot be imported ({error})") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise pytest.UsageError(f"--perceiver-adapter: {module_name} has no function {function_name!r}")
    made: Callable[..., Any] = function
    return made
