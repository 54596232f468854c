"""Parsing the command line, and turning errors into one line and an exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from ..autograd.backend import BACKENDS, BackendError
from ..autograd.modes import MODES, kernels
from ..errors import InputError, one_of
from ..files import check_writable
from ..version import __version__
from .table import COMMANDS

OK, MISMATCH, BAD_INPUT = 0, 1, 2
_DTYPES = ("float64", "float32")
_EPILOG = """\
examples:
  perceiver-ref check                        is this installation right?
  perceiver-ref check my_case.npz            is a port?
  perceiver-ref diagnose my_case.npz         if not, why?
  perceiver-ref COMMAND --help               options and examples of a command

exit code: 0 all well, 1 a mismatch was found, 2 bad input; colours on terminals only, and not with NO_COLOR"""


class _Parser(argparse.ArgumentParser):
    """argparse, with usage errors as one line like every other error."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: those of the process); returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(arguments).parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names come from files, and a terminal may lack their letters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if options.json:
            check_writable(options.json)
        with kernels(options.kernels):
            code: int = options.command(options)
            sys.stdout.flush()
            return code
    except (InputError, BackendError) as error:
        return _failed(options.name, error)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        return _failed(options.name, f"{error.strerror or error}: {error.filename or 'no file'}")
    except MemoryError:
        return _failed(options.name, "out of memory; use a smaller dtype or fewer inputs")
    except KeyboardInterrupt as error:
        return _failed(options.name, str(error) or "interrupted", 130)


def _failed(name: str, error: object, code: int = BAD_INPUT) -> int:
    text = " ".join(str(error).split())
    print(f"perceiver-ref {name}: error: {text}", file=sys.stderr)
    return code


def computing(command: argparse.ArgumentParser, default: str) -> None:
    """The options of commands that compute: `default` says in which precision without --dtype."""
    command.add_argument("--backend", choices=BACKENDS, default="numpy", help="array library (default: numpy)")
    command.add_argument("--dtype", choices=_DTYPES, help=f"precision to compute in (default: {default})")
    command.add_argument(
        "--kernels", choices=MODES, default="fast", help="fast kernels or the plain definitions (default: fast)"
    )


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
            made.set_defaults(name=row.name, command=getattr(implementation, row.name), kernels="fast")
            implementation.options(made)
            made.add_argument("--json", metavar="FILE", help="also write the result as JSON (docs/JSON.md)")
    return parser
