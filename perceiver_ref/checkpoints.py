"""Weights and configurations in the files that people have them in.

| what | files |
| --- | --- |
| a Hugging Face directory | `config.json` and `model.safetensors`, or `model.safetensors.index.json` and its shards |
| safetensors | one `.safetensors` file (needs the extra `safetensors`) |
| Haiku pickle | one `.pickle`, `.pkl` or `.pystate` file: `{module: {name: array}}`, or params and state of such |
| npz | one `.npz` file, arrays by parameter name, with or without a leading `param/` |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .autograd import backend as backends
from .autograd import tree
from .autograd.tree import Tree
from .errors import InputError
from .files import AnyPath, existing_file, read_json
from .peers import Given, Rebuilt, peer
from .pickles import read_pickle
from .vectors.case import finite_parameters
from .vectors.npz import read_npz

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def load(
    peer_name: str,
    path: AnyPath,
    cls: str | None = None,
    *,
    config: AnyPath | Mapping[str, Any] | None = None,
    dtype: Any = None,
    backend: str = "numpy",
) -> tuple[Any, Tree]:
    """`(model, params)` from another implementation's checkpoint.

    `peer_name` is the implementation ("hf", "deepmind"), `path` its weights: a file or a directory. `cls` is its class
    (default: what the configuration names) and `config` the configuration, or a JSON file of it (default: `config.json`
    of the directory). Parameters keep the file's dtype unless `dtype` is given. Raises `InputError` for anything
    missing, unused or of the wrong shape. Models with running statistics: see `load_with_state`.
    """
    model, params, _ = load_with_state(peer_name, path, cls, config=config, dtype=dtype, backend=backend)
    return model, params


def load_with_state(
    peer_name: str,
    path: AnyPath,
    cls: str | None = None,
    *,
    config: AnyPath | Mapping[str, Any] | None = None,
    dtype: Any = None,
    backend: str = "numpy",
) -> tuple[Any, Tree, Tree]:
    """As `load`, with the running statistics of batch norm for `Call(state=...)`; None for a model that has none."""
    if not isinstance(config, Mapping):
        config = read_config(path if config is None else config)
    arrays = read_finite(path)
    rebuilt = rebuild(peer_name, cls, config, path, arrays)

    def prepared(array: np.ndarray) -> Any:
        return backends.to_backend(array if dtype is None else array.astype(dtype, copy=False), backend)

    params, state = (tree.map(prepared, part) for part in rebuilt.load(arrays, path))
    return rebuilt.model, params, state


def rebuild(
    peer_name: str,
    cls: str | None,
    config: Mapping[str, Any],
    where: AnyPath,
    arrays: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray] | None = None,
) -> Rebuilt:
    """A peer's class from its configuration; without `cls`, the one that the configuration names."""
    known = peer(peer_name)
    if cls is None:
        named = config.get("architectures")
        if not (isinstance(named, list) and len(named) == 1):
            raise InputError(f"{where}: the configuration names no architecture; say which class it is (--class)")
        cls = str(named[0])
    shapes = {name: array.shape for name, array in arrays.items()}
    return known.rebuild(cls, Given(config, {n: a.shape for n, a in (inputs or {}).items()}, shapes))


def read_finite(weights: AnyPath) -> dict[str, np.ndarray]:
    """As `read_weights`; `InputError` when one holds a NaN or an infinity."""
    arrays = read_weights(weights)
    finite_parameters(arrays, weights)
    return arrays


def read_config(path: AnyPath) -> dict[str, Any]:
    """A configuration: a JSON file, or the `config.json` of a directory."""
    path = Path(path)
    return read_json(path / CONFIG if path.is_dir() else path, "a configuration in JSON")


def read_weights(path: AnyPath) -> dict[str, np.ndarray]:
    """Every array of a weights file or directory, by the name that it has there."""
    path = Path(path)
    if path.is_dir():
        return _read_directory(path)
    existing_file(path, "a .npz, .safetensors or .pystate file, or a checkpoint directory")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        arrays = read_npz(path)
        named = {name.removeprefix("param/"): a for name, a in arrays.items() if name.startswith("param/")}
        return named or arrays
    if path.suffix in (".pickle", ".pkl", ".pystate"):
        return _haiku_names(path, read_pickle(path))
    raise InputError(f"{path}: weights must be a .pystate, .npz or .safetensors file, or a checkpoint directory")


def _haiku_names(path: Path, content: Any) -> dict[str, np.ndarray]:
    """Arrays by module path and name, from {module: {name: array}} or {"params": ..., "state": ...} of such."""
    if isinstance(content, dict) and set(content) <= {"params", "state"} and content:
        content = {name: array for part in content.values() for name, array in (part or {}).items()}
    arrays = tree.flatten(content) if isinstance(content, dict) else {}
    if not arrays or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise InputError(f"{path}: expected a Haiku parameter tree, arrays by module and name")
    return arrays


def _read_directory(folder: Path) -> dict[str, np.ndarray]:
    if (folder / SINGLE).exists():
        return _read_safetensors(folder / SINGLE)
    if (folder / INDEX).exists():
        shards = read_json(folder / INDEX, "a safetensors index").get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(s, str) and Path(s).name == s for s in shards.values()):
            raise InputError(f"{folder / INDEX}: weight_map must map names to files of the same directory")
        arrays: dict[str, np.ndarray] = {}
        for shard in sorted(set(shards.values())):
            arrays.update(_read_safetensors(folder / shard))
        return arrays
    raise InputError(f"{folder} holds neither {SINGLE} nor {INDEX}; give a checkpoint directory or a weights file")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    existing_file(path, "a .safetensors file")
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise InputError(
            f"reading {path.name} needs the package safetensors; "
            "install it with: python -m pip install 'perceiver-ref[safetensors]'"
        ) from None
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({str(error).splitlines()[0]})") from None
