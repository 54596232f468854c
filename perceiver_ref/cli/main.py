"""Parsing the command line, and turning errors into one line and an exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from ..autograd.backend import BACKENDS, BackendError
from ..autograd.modes import MODES, kernels
from ..errors import LINE, InputError, one_line, one_of
from ..host.files import remove_temporaries
from ..host.progress import showing
from ..host.signals import exit_code, settle, stopping
from ..version import __version__
from .places import check_places
from .streams import patient_streams
from .table import COMMANDS

OK, MISMATCH, BAD_INPUT = 0, 1, 2
_LONG = ("check", "compare", "diagnose", "export", "run")
"""Commands that may take long: they show how far they are"""
_DTYPES = ("float64", "float32")
_EPILOG = """\
examples:
  perceiver-ref check                        is this installation right?
  perceiver-ref check my_case.npz            is a port?
  perceiver-ref diagnose my_case.npz         if not, why?
  perceiver-ref COMMAND --help               options and examples of a command

exit code: 0 all well, 1 a mismatch was found, 2 bad input; colours on terminals only, and not with NO_COLOR"""


class _Parser(argparse.ArgumentParser):
    """argparse, with usage errors as one line like every other error, and options by their whole names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        start, end = f"{self.prog}: error: ", f"; see {self.prog} --help"
        print(start + one_line(message, LINE - len(start + end)) + end, file=sys.stderr)
        sys.exit(BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: those of the process); returns the exit code.

    A closed pipe changes nothing but what is seen: the work is done, reports are written, the exit code says what was
    found. SIGINT, SIGTERM and SIGHUP leave no temporary files; the code is then 128 and the signal's number.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # names come from files, and a terminal may lack their letters
        sys.stdout.reconfigure(errors="backslashreplace")
    with patient_streams() as stdout, stopping():
        name = ""
        try:
            options, unknown = _parser(arguments).parse_known_args(arguments)
            if unknown:
                options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            name = options.name
            code = _run(options)
        except KeyboardInterrupt as error:
            settle()
            code = _failed(name, str(error) or "interrupted", exit_code(error))
        finally:
            remove_temporaries()
        stdout.flush()
        if stdout.error is not None and not isinstance(stdout.error, BrokenPipeError):  # such as a full disk
            return _failed(name, f"{stdout.error.strerror}: the output cannot be written")
        return code


def _run(options: argparse.Namespace) -> int:
    try:
        check_places(options)
        if getattr(options, "peer_file", None) is not None:
            import_module(".mapping", __package__).load_peer_file(options.peer_file)
        with kernels(options.kernels), showing(options.progress):
            code: int = options.command(options)
            return code
    except (InputError, BackendError) as error:
        return _failed(options.name, error)
    except OSError as error:
        return _failed(options.name, f"{error.strerror or error}: {error.filename or 'no file'}")
    except MemoryError:
        return _failed(options.name, "out of memory; use a smaller dtype or fewer inputs")
    except Exception as error:
        if os.environ.get("PERCEIVER_REF_DEBUG", "0") not in ("", "0"):
            raise
        return _failed(options.name, unforeseen(error))


def unforeseen(error: BaseException) -> str:
    """What is said of an error that nothing here foresaw: a traceback would exit with 1, which reads as a mismatch."""
    kind = type(error).__name__
    return f"a mistake in perceiver-ref, please report it with PERCEIVER_REF_DEBUG=1's traceback: {kind}: {error}"


def complain(name: str, error: object, kind: str = "error", whole: bool = False) -> None:
    """One line on stderr, printable whatever the files held that it speaks of; a short one, or with `whole` all."""
    start = f"{f'perceiver-ref {name}'.rstrip()}: {kind}: "
    print(start + one_line(error, 1 << 16 if whole else LINE - len(start)), file=sys.stderr)


def _failed(name: str, error: object, code: int = BAD_INPUT) -> int:
    complain(name, error, whole=code != BAD_INPUT)  # what is said of an interrupt stays whole
    return code


def computing(command: argparse.ArgumentParser, default: str) -> None:
    """The options of commands that compute: `default` says in which precision without --dtype."""
    on_backend(command)
    command.add_argument("--dtype", choices=_DTYPES, help=f"precision to compute in (default: {default})")
    command.add_argument(
        "--kernels", choices=MODES, default="fast", help="fast kernels or the plain definitions (default: fast)"
    )


def on_backend(command: argparse.ArgumentParser) -> None:
    """The option of what to compute on."""
    command.add_argument("--backend", choices=BACKENDS, default="numpy", help="array library (default: numpy)")


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with the options of the one command that is named."""
    parser = _Parser(
        prog="perceiver-ref",
        description="Golden reference of Perceiver, Perceiver IO, Perceiver AR and Flamingo.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"perceiver-ref {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    if named is not None and named not in (names := [row.name for row in COMMANDS]):
        parser.error(str(one_of("command", named, names)))
    for row in COMMANDS:
        made: argparse.ArgumentParser = commands.add_parser(
            row.name,
            help=row.what,
            description=f"{row.what[0].upper()}{row.what[1:]}.",
            epilog=row.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if row.name == named:
            implementation = import_module(f".{row.name}", __package__)
            made.set_defaults(
                parser=made, name=row.name, command=getattr(implementation, row.name), kernels="fast", progress=False
            )
            implementation.options(made)
            if row.name in _LONG:
                made.add_argument("--progress", action="store_true", help="show progress on stderr, terminal or not")
            made.add_argument("--json", metavar="FILE", help="also write the result as JSON (docs/JSON.md)")
    return parser
