"""Weights and configurations in the files that people have them in.

| what | files |
| --- | --- |
| a Hugging Face directory | `config.json` and `model.safetensors` or `pytorch_model.bin`, or an index and its shards |
| safetensors | one `.safetensors` file |
| PyTorch | one `.pt`, `.pth`, `.bin` or `.ckpt` file of `torch.save`, of Lightning too; read without PyTorch |
| Haiku pickle | one `.pickle`, `.pkl` or `.pystate` file: `{module: {name: array}}`, or params and state of such |
| npz | one `.npz` file, arrays by parameter name, with or without a leading `param/` |
| our own | the `.npz` that `perceiver-ref convert` writes; see `formats.own` |
| a case | one `.npz` of the vector format; see `formats.cases` |

Nothing in a file ever runs; see `formats`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd import backend as backends
from ..autograd import tree
from ..autograd.tree import Tree
from ..errors import InputError, listed
from ..host.files import AnyPath, read_json
from ..models.module import floating_dtype
from ..peers import PEERS, Given, Peer, Rebuilt, peer
from ..peers.base import told
from .formats.cases import parameters, said_by
from .formats.dtypes import finite
from .formats.fit import Fitted, fit
from .formats.foreign import foreign_of
from .formats.opcodes import shown
from .formats.own import beyond, by_key, from_own, own_meta
from .formats.read import Arrays, read_arrays

CONFIG = "config.json"
_OWN = "perceiver-ref"
"""The peer whose configurations name their class as `type`."""


class CheckpointWarning(UserWarning):
    """What `load` had to do for a file to fit, such as leaving a prefix out of its names."""


@dataclass(frozen=True)
class Choice:
    """Which of a file's arrays are meant, where it has more than those of one class; see `load`."""

    key: str | None = None
    prefix: str | None = None
    allow_unused: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A file's weights with the class that they are for: its peer, name and configuration, and how they fit.

    `inputs` are the shapes of the arguments that it was rebuilt with, `task` what a file of ours says of its use.
    """

    peer: str
    cls: str
    config: Mapping[str, Any]
    fitted: Fitted
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    task: Mapping[str, Any] | None = None

    @property
    def rebuilt(self) -> Rebuilt:
        """The class."""
        return self.fitted.rebuilt

    @property
    def arrays(self) -> Arrays:
        """The arrays by the peer's names, without aliases of tied parameters."""
        return self.fitted.arrays

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of: prefixes left out, tied parameters, entries of the file that were left out."""
        return self.fitted.notes


@dataclass(frozen=True)
class Origin:
    """Where a model was loaded from: what leads from its parameters, once they are tuned, back to the peer's file.

    `shapes` are by the peer's names, and `kept` what our arrays do not give back.
    """

    peer: str
    cls: str
    config: Mapping[str, Any]
    inputs: Mapping[str, tuple[int, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str]
    kept: Arrays


ORIGIN = "_origin"
"""The attribute of a model that holds its `Origin`; it is no field, and models are equal with and without it."""


def remember(checkpoint: Checkpoint, params: Tree, state: Tree) -> None:
    """Note on the model of a checkpoint where it comes from."""
    kept = beyond(checkpoint.rebuilt, by_key(params, state), checkpoint.arrays)
    made = Origin(
        checkpoint.peer,
        checkpoint.cls,
        checkpoint.config,
        checkpoint.inputs,
        _shapes(checkpoint.arrays),
        checkpoint.fitted.tied,
        kept,
    )
    vars(checkpoint.rebuilt.model)[ORIGIN] = made


def load(
    peer_name: AnyPath | None,
    path: AnyPath | None = None,
    cls: str | None = None,
    *,
    config: AnyPath | Mapping[str, Any] | None = None,
    dtype: Any = None,
    backend: str = "numpy",
    key: str | None = None,
    prefix: str | None = None,
    allow_unused: bool = False,
) -> tuple[Any, Tree]:
    """`(model, params)` of a file that `save` wrote, `load("model.npz")`, or of another implementation's checkpoint.

    For the latter, `load("hf", path)`: `peer_name` is the implementation ("hf", "deepmind"), `path` its weights, a file
    or a directory. `cls` is its class (default: what the configuration names) and `config` the configuration, or a JSON
    file of it (default: `config.json` of the directory). Our own file knows all three, and so does a case of the vector
    format. Parameters keep the file's dtype (bfloat16: float32, exactly) unless `dtype` is given.

    `key` says where in a file with more than weights they are, such as "ema" or "checkpoint.model" ("." means the
    outermost level; default: the first of `formats.state_dict.KEYS` that is there, or what alone there is). `prefix` is
    what the names of the class's part of a whole model begin with, such as "perceiver." ("": nothing; default: found,
    where exactly one fits). With `allow_unused`, arrays that the class has no use for are left out.

    Warns (`CheckpointWarning`) of each such choice. Raises `InputError` for anything missing, unused or of the wrong
    shape, and where several prefixes or state dicts could be meant. Models with running statistics: see
    `load_with_state`.
    """
    choice = Choice(key, prefix, allow_unused)
    model, params, _ = _load(peer_name, path, cls, config, dtype, backend, choice)
    return model, params


def load_with_state(
    peer_name: AnyPath | None,
    path: AnyPath | None = None,
    cls: str | None = None,
    *,
    config: AnyPath | Mapping[str, Any] | None = None,
    dtype: Any = None,
    backend: str = "numpy",
    key: str | None = None,
    prefix: str | None = None,
    allow_unused: bool = False,
) -> tuple[Any, Tree, Tree]:
    """As `load`, with the running statistics of batch norm for `Call(state=...)`; None for a model that has none."""
    return _load(peer_name, path, cls, config, dtype, backend, Choice(key, prefix, allow_unused))


def _load(
    peer_name: AnyPath | None,
    path: AnyPath | None,
    cls: str | None,
    config: Any,
    dtype: Any,
    backend: str,
    choice: Choice,
) -> tuple[Any, Tree, Tree]:
    if path is None:
        if peer_name is None or (peer_name in PEERS and not Path(peer_name).exists()):
            raise InputError(f"load({peer_name!r}) names no file; give the path of the weights, too")
        peer_name, path = None, peer_name
    assert path is not None
    checkpoint = read_checkpoint(
        None if peer_name is None else str(peer_name), path, cls, config=config, dtype=dtype, choice=choice
    )

    def prepared(array: np.ndarray) -> Any:
        return backends.to_backend(array if dtype is None else array.astype(dtype, copy=False), backend)

    found = checkpoint.rebuilt.load(checkpoint.arrays, path)
    remember(checkpoint, *found)
    params, state = (tree.map(prepared, part) for part in found)
    for note in checkpoint.notes:
        warnings.warn(note, CheckpointWarning, stacklevel=3)
    return checkpoint.rebuilt.model, params, state


def read_checkpoint(
    peer_name: str | None,
    path: AnyPath,
    cls: str | None = None,
    *,
    config: AnyPath | Mapping[str, Any] | None = None,
    dtype: Any = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    call: Mapping[str, Any] | None = None,
    choice: Choice = Choice(),
) -> Checkpoint:
    """Read weights, find out what they are for and rebuild that; see `load` for the arguments and errors.

    `inputs` are the arrays that the class will be called with, and `call` its other arguments: some classes take sizes
    from them.
    """
    dtype = None if dtype is None else floating_dtype(dtype)
    if peer_name is not None:
        peer(peer_name)  # an unknown one is said before a large file is read
    found = read_arrays(path, dtype, choice.key, choice.prefix or "")
    arrays, notes = parameters(found.arrays, path), found.notes
    case = said_by(found.arrays, path)
    if case is not None and peer_name in (None, case.peer) and config is None and cls in (None, case.cls):
        peer_name, cls, config = case.peer, case.cls, case.config
        inputs, call = inputs or case.inputs, call or case.call
        arrays = {**arrays, **{alias: arrays[name] for alias, name in case.tied.items() if name in arrays}}
    sizes = _shapes(inputs)
    meta = own_meta(arrays, path)
    where = path if config is None or isinstance(config, Mapping) else config
    if config is not None and not isinstance(config, Mapping):
        config = read_config(config)
    if meta is None:
        if peer_name is None:
            if config is None or "type" not in config:
                raise InputError(f"{path} does not say which implementation it comes from; name it (--peer)")
            peer_name = _OWN
        given: Mapping[str, Any] = read_config(_beside(path)) if config is None else config
        known = peer(peer_name)
        named = cls or class_named(known, given, where)

        def rebuild_with(found: Mapping[str, np.ndarray]) -> Rebuilt:
            return known.rebuild(named, Given(given, sizes, _shapes(found), call or {}))

        with told() as ignored:
            fitted = fit(rebuild_with, arrays, path, choice.prefix, choice.allow_unused)
        if cls is None and known.name != _OWN and named not in config_classes(given):
            notes = [*notes, f"the configuration is of {config_classes(given)[0]}; took its part {named}"]
        if ignored:
            notes = [*notes, ignored_fields(ignored)]
    else:
        if choice != Choice():
            raise InputError(f"{path} is our own checkpoint, of one class: no --key, --prefix or --allow-unused")
        if peer_name not in (None, meta["peer"]):
            raise InputError(f"{path} is a checkpoint of peer {meta['peer']}, not {peer_name}")
        peer_name, given, named = meta["peer"], meta["config"] if config is None else config, cls or meta["class"]
        shapes = {name: tuple(shape) for name, shape in meta["shapes"].items()}
        sizes = sizes or {name: tuple(shape) for name, shape in meta["inputs"].items()}
        rebuilt = peer(meta["peer"]).rebuild(named, Given(given, sizes, shapes, call or {}))
        fitted = Fitted(rebuilt, from_own(rebuilt, meta, arrays, path), dict(meta["tied"]))
    finite(fitted.arrays, path)
    fitted = Fitted(fitted.rebuilt, fitted.arrays, fitted.tied, (*notes, *fitted.notes))
    return Checkpoint(str(peer_name), named, given, fitted, sizes, None if meta is None else meta.get("task"))


def rebuild(
    peer_name: str,
    cls: str | None,
    config: Mapping[str, Any],
    where: AnyPath,
    arrays: Mapping[str, np.ndarray],
) -> Rebuilt:
    """A peer's class from its configuration; without `cls`, the one that the configuration names."""
    known = peer(peer_name)
    return known.rebuild(cls or class_named(known, config, where), Given(config, params=_shapes(arrays)))


def _shapes(arrays: Mapping[str, np.ndarray] | None) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in (arrays or {}).items()}


def class_named(known: Peer, config: Mapping[str, Any], where: object) -> str:
    """The class that a configuration names under `architectures`, or the peer's only one, as a part of that."""
    if known.name == _OWN and isinstance(config.get("type"), str):
        return str(config["type"])
    named = config_classes(config)
    if len(named) != 1:
        raise InputError(f"{where}: the configuration names no architecture; say which class it is (--class)")
    return next(iter(known.classes)) if named[0] not in known.classes and len(known.classes) == 1 else named[0]


def ignored_fields(names: Sequence[str]) -> str:
    """What is said of a configuration's fields that every one of transformers has, and that change nothing."""
    return f"the configuration: ignored what every one of transformers has: {listed(names, 6)}"


def config_classes(config: Mapping[str, Any]) -> list[str]:
    """What a configuration has under `architectures`."""
    named = config.get("architectures")
    return list(map(str, named)) if isinstance(named, list) else []


def read_config(path: AnyPath) -> dict[str, Any]:
    """A configuration: a JSON file, or the `config.json` of a directory."""
    path = Path(path)
    return read_json(path / CONFIG if path.is_dir() else path, "a configuration in JSON")


def _beside(path: AnyPath) -> Path:
    """Where the configuration of weights is when none is named: in their directory."""
    path = Path(path)
    if path.is_dir() or (path.parent / CONFIG).exists():
        return path if path.is_dir() else path.parent
    raise InputError(f"{path} has no {CONFIG} beside it; give the configuration, a JSON file (--config)")


def read_weights(path: AnyPath, dtype: Any = None, key: str | None = None) -> Arrays:
    """Every array of a weights file or directory, by the name that it has there; floating point in `dtype` if given."""
    arrays = parameters(read_arrays(path, dtype, key).arrays, path)
    for name, array in arrays.items():
        if (foreign := foreign_of(array)) and foreign.tensor:
            raise InputError(f"{path}: {shown(name)!r} cannot be read: it holds {foreign.why}")
    return {name: array for name, array in arrays.items() if not foreign_of(array)}
