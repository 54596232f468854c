"""Interpreting pickles instead of running them: containers, numbers and text, and constructors from a table.

Unpickling calls whatever a file names. Here its opcodes work on a stack of our own, a name is looked up in the table
that the reader of one kind of file gives, and for what the table lacks a placeholder stands (`foreign`). Work and
memory are bounded by the file's size: nothing is read beyond what it holds, and each instruction is paid for
(`account`).
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import InputError
from ...host.contents import PICKLE, PYTORCH, misnamed
from .account import WIDE_TEXT, Account, SpentError, is_wide
from .foreign import Foreign, RefusedError, made

Names = Mapping[tuple[str, str], Any]
"""What a pickle may name, by module and name: functions and classes of ours, which it may call, and plain values."""

_DEPTH = 64
_NODES = 200_000
_OPCODES = 1_000_000
_SMALL = 4096  # bytes beyond which data is read into a buffer that can be written to
_MARK = object()
_SET = Foreign("a set")
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LONG_TEXTS = {"BINUNICODE": 4, "BINUNICODE8": 8}  # bytes of their length
_BY_CODE: dict[bytes, Any] = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


class Buildable:
    """Base of what a pickle may give a state; `refused` says why one was not taken."""

    refused = ""

    def set_state(self, state: Any) -> None:
        """Take the state, or raise `RefusedError`."""
        raise NotImplementedError


class Bounded:
    """The rest of a file, `size` bytes of it: asking for more is an error before anything is allocated."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int) -> bytes | bytearray:
        """The next `count` bytes; a long piece as a bytearray, so that an array can be made of it without a copy."""
        self._take(count)
        if count < _SMALL:
            return self._file.read(count)
        piece = bytearray(count)
        del piece[self._file.readinto(piece) :]  # type: ignore[attr-defined]
        return piece

    def readline(self) -> bytes:
        """The next line, with its end."""
        line = self._file.readline(self._left)
        self._take(len(line))
        return line

    def _take(self, count: int) -> None:
        if not 0 <= count <= self._left:
            raise ValueError(f"{count} bytes are announced, {self._left} are left")
        self._left -= count


@contextmanager
def pickle_errors(path: object, what: str) -> Iterator[None]:
    """Around reading a pickle: everything that goes wrong becomes an `InputError` of one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except (RefusedError, SpentError) as error:
        raise InputError(f"{path} is refused: it holds {error}; expected {what} only") from None
    except Exception as error:  # damage makes the opcodes' decoders and NumPy raise almost anything
        why = misnamed(Path(str(path)), error, first_line, PYTORCH, PICKLE)
        raise InputError(f"{path} is not a readable pickle ({why})") from None


def first_line(error: object, length: int = 120) -> str:
    """The start of an error's text, or its kind when it has none; nothing that a terminal would act on."""
    lines = str(error).splitlines()
    return shown(lines[0] if lines and lines[0] else type(error).__name__, length)


def shown(text: object, length: int = 80) -> str:
    """Text from a file for a message: on one line, printable, and not long."""
    text = str(text)
    short = text if len(text) <= length else text[: length - 3] + "..."
    return "".join(c if c.isprintable() else "?" for c in short)


def interpret(file: Bounded, size: int, names: Names, persistent: Callable[[Any], Any] | None = None) -> Any:
    """What the next pickle in `file`, which has `size` bytes, builds from `names`.

    `persistent` gives the object for a persistent id (PyTorch's storages). Raises `RefusedError`, and for damage
    almost any exception; see `pickle_errors`.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    known = {id(value) for value in names.values()}
    account = Account(size)

    def since_mark() -> list[Any]:
        items: list[Any] = []
        while (item := stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    for count, (name, argument) in enumerate(_instructions(file)):
        if count > _OPCODES:
            raise RefusedError(f"more than {_OPCODES:,} instructions")
        account.instruction(name)
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "STOP":
            return stack.pop()
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            since_mark()
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[_index(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("LIST", "TUPLE"):
            items = since_mark()
            account.items(len(items))
            stack.append(items if name == "LIST" else tuple(items))
        elif name in _TUPLES:
            length = _TUPLES[name]
            items = [stack.pop() for _ in range(length)]
            stack.append(tuple(items[::-1]))
        elif name in ("DICT", "SETITEMS"):
            items = since_mark()
            account.entries(len(items) // 2)
            if name == "DICT":
                stack.append({})
            for key, value in zip(items[::2], items[1::2], strict=True):
                _set(stack[-1], key, value)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set(stack[-1], key, value)
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else since_mark()
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
            elif not isinstance(stack[-1], Foreign):
                raise RefusedError("a malformed list")
            account.items(len(items))
        elif name == "EMPTY_SET":
            stack.append(_SET)
        elif name == "FROZENSET":
            since_mark()
            stack.append(_SET)
        elif name == "ADDITEMS":
            since_mark()
            if not isinstance(stack[-1], Foreign):
                raise RefusedError("a malformed set")
        elif name == "GLOBAL":
            stack.append(_named(names, *argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_named(names, module, attribute))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            keywords = stack.pop() if name == "NEWOBJ_EX" else {}
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, Foreign):
                if id(function) not in known or keywords or not isinstance(arguments, tuple):
                    raise RefusedError("a call")
                account.call(arguments)
                function = made(function, arguments) if callable(function) else Foreign("a call", tensor=True)
                account.made(function)
            stack.append(function)  # what was made, or the placeholder, which stands for its objects, too
        elif name == "BUILD":
            state, target = stack.pop(), stack[-1]
            if isinstance(target, Buildable):
                try:
                    target.set_state(state)
                except RefusedError as error:
                    target.refused = str(error)
                account.made(target)
            elif not isinstance(target, (dict, Foreign)):  # whose attributes are left out
                raise RefusedError("an object with a state")
        elif name == "BINPERSID" and persistent is not None:
            stack.append(made(persistent, (stack.pop(),)))
        else:
            raise RefusedError(f"the opcode {name}")
    raise RefusedError("no end")


def _instructions(file: Bounded) -> Iterator[tuple[str, Any]]:
    """Name and argument of one opcode after another, up to STOP, as `pickletools.genops` gives them."""
    while code := bytes(file.read(1)):
        opcode = _BY_CODE.get(code)
        if opcode is None:
            raise ValueError(f"unknown opcode {code!r}")
        if opcode.name in _LONG_TEXTS:
            yield opcode.name, _long_text(file.read(int.from_bytes(file.read(_LONG_TEXTS[opcode.name]), "little")))
        elif opcode.name == "UNICODE":
            yield opcode.name, opcode.arg.reader(io.BytesIO(_narrow_line(file.readline())))
        else:
            yield opcode.name, None if opcode.arg is None else opcode.arg.reader(file)


def _long_text(piece: bytes | bytearray) -> str:
    if is_wide(piece):
        raise RefusedError("a long text of wide letters")
    return str(piece, "utf-8", "surrogatepass")


def _narrow_line(line: bytes) -> bytes:
    if len(line) > WIDE_TEXT:  # its escapes may be of any letter
        raise RefusedError("a line of text that is too long")
    return line


def mapping(items: Any = ()) -> dict[Any, Any]:
    """The dict that stands for an ordered or frozen one, or a counter."""
    made: dict[Any, Any] = {}
    for key, value in items.items() if isinstance(items, dict) else items:
        _set(made, key, value)
    return made


def defaulting(factory: Any = None, items: Any = ()) -> dict[Any, Any]:
    """The dict that stands for one with a default, which is left out."""
    return mapping(items)


def latin(text: Any, encoding: Any = "latin1") -> bytes | bytearray:
    """`_codecs.encode`, which older pickles write bytes with."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("a text codec")
    encoded = text.encode("latin-1")
    return encoded if len(encoded) < _SMALL else bytearray(encoded)


def no_bytes(*arguments: Any) -> bytes:
    """`bytes()`, which older pickles write empty bytes with."""
    if arguments:
        raise RefusedError("a call of bytes")
    return b""


CONTAINERS: Names = {
    ("collections", "OrderedDict"): mapping,
    ("collections", "Counter"): mapping,
    ("collections", "defaultdict"): defaulting,
    ("_codecs", "encode"): latin,
    ("__builtin__", "bytes"): no_bytes,
    ("builtins", "bytes"): no_bytes,
}
"""What every kind of pickle may name."""


def plain(root: Any, finish: Callable[[Any], Any]) -> Any:
    """The finished tree. A part that the file shares is copied for each place; too many of them are refused.

    `finish` gives the leaf for what a constructor made; where it raises `RefusedError`, a `Foreign` stands for it.
    """
    nodes = 0

    def walk(value: Any, depth: int) -> Any:
        nonlocal nodes
        nodes += 1
        if depth > _DEPTH or nodes > _NODES:
            raise RefusedError(f"more than {_DEPTH} levels or {_NODES} nodes of containers")
        if isinstance(value, dict):
            return {key: walk(child, depth + 1) for key, child in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(walk(child, depth + 1) for child in value)
        if value is None or isinstance(value, (bool, int, float, str, bytes, bytearray)):
            return value
        return value if isinstance(value, Foreign) else made(finish, (value,))

    return walk(root, 0)


def _set(target: Any, key: Any, value: Any) -> None:
    """Set an item of a dict; keys that no state dict has become placeholders, so that none is hashed as it asks."""
    if isinstance(target, Foreign):
        return
    if not isinstance(target, dict):
        raise RefusedError("a malformed dict")
    if type(key) not in (str, int, bytes):
        key = key if isinstance(key, Foreign) else Foreign(f"a key of type {type(key).__name__}")
    target[_index(key) if type(key) is int else key] = value


def _index(number: int) -> int:
    """A key of a dict; the larger ones, of equal hashes, can make a dict take hours."""
    if not abs(number) < 1 << 60:
        raise RefusedError("a number as a key that no index needs")
    return number


def _named(names: Names, module: Any, name: Any) -> Any:
    if not isinstance(module, str) or not isinstance(name, str):
        raise RefusedError("a name that is no text")
    if (module, name) not in names:
        return Foreign(f"the name {shown(f'{module}.{name}')}", tensor=name.startswith("_rebuild"))
    return names[module, name]
