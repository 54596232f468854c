"""Parsing the command line, and turning errors into one line and an exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..autograd.backend import BACKENDS, BackendError
from ..autograd.kernels import MODES, kernels
from ..errors import InputError
from ..version import __version__

OK, MISMATCH, BAD_INPUT = 0, 1, 2
_DTYPES = ("float64", "float32")


class _Parser(argparse.ArgumentParser):
    """argparse, with usage errors as one line like every other error."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: those of the process); returns the exit code."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names come from files, and a terminal may lack their letters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="perceiver-ref", description="Golden reference of Perceiver, Perceiver IO and Flamingo.")
    parser.add_argument("--version", action="version", version=f"perceiver-ref {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    from . import compare, convert, diagnose, explain, export, train

    check = _command(commands, "check", "rebuild cases in the reference and compare outputs, gradients and traces")
    check.add_argument("paths", nargs="*", metavar="PATH", help="case files or folders (default: the packaged vectors)")
    _computing(check, "the case's own")

    run = _command(commands, "run", "run a checkpoint of another implementation in the reference")
    convert.weights(run)
    run.add_argument("--inputs", required=True, metavar="F", help=".npz with the arguments by the peer's names")
    run.add_argument("--output", required=True, metavar="F", help=".npz to write")
    run.add_argument("--trace", action="store_true", help="also write every named intermediate value")
    run.add_argument("--grad", action="store_true", help="also write gradients, of the sum of output * cotangent")
    _computing(run, "the weights'")

    convert.options(_command(commands, "convert", "weights to our own checkpoint, and back to the peer's names"))

    diagnose.options(_command(commands, "diagnose", "say whether outputs are right, and if not, which deviation it is"))

    compare.options(
        _command(commands, "compare", "two dumps of intermediate values: where they begin to differ, and how it grows")
    )

    export.options(_command(commands, "export", "fresh vectors for a port, and the conformance pack"))

    explain.options(_command(commands, "explain", "parameters, FLOPs and memory of a model, layer by layer"))

    train.options(_command(commands, "train", "train a small model, end to end"))

    _command(commands, "info", "versions, BLAS, threads and GPU")
    return parser


def _command(commands: Any, name: str, help_text: str) -> argparse.ArgumentParser:
    from . import commands as implementations

    made: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=help_text)
    made.set_defaults(name=name, command=getattr(implementations, name), kernels="fast")
    made.add_argument("--json", metavar="FILE", help="also write the result as JSON")
    return made


def _computing(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument("--backend", choices=BACKENDS, default="numpy", help="array library (default: numpy)")
    command.add_argument("--dtype", choices=_DTYPES, help=f"precision to compute in (default: {default})")
    command.add_argument("--kernels", choices=MODES, default="fast", help="fast kernels or the plain definitions")
