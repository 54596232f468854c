"""`load` takes a case of the vector format: it says itself what its parameters are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import invoke
from support import assert_close

import perceiver_ref as pr
from perceiver_ref.peers import Given, peer
from perceiver_ref.weights.checkpoints import CheckpointWarning
from perceiver_ref.weights.formats.npz import read_npz, write_npz

VECTORS = Path(__file__).parents[1] / "vectors"
FILES = sorted(path for path in VECTORS.rglob("*.npz") if any(n.startswith("param/") for n in np.load(path).files))


@pytest.mark.filterwarnings(f"ignore::{CheckpointWarning.__module__}.{CheckpointWarning.__qualname__}")
@pytest.mark.parametrize("path", FILES[::7], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_case_needs_nothing_else(path: Path) -> None:
    case = pr.vectors.read_case(path)
    meta = case.meta
    shapes = {name: array.shape for name, array in case.inputs.items()}
    params = {**case.params, **case.state, **{alias: case.params[name] for alias, name in meta["tied"].items()}}
    given = Given(meta["config"], shapes, {name: array.shape for name, array in params.items()}, meta["call"])
    rebuilt = peer(meta["peer"]).rebuild(meta["class"], given)
    found = pr.load_with_state(None, path)
    assert found[0] == rebuilt.model
    assert_close(list(found[1:]), list(rebuilt.load(params, path)), tolerance=0)


def edited(tmp_path: Path, **changes: Any) -> Path:
    """A case whose meta says otherwise; None leaves an entry out."""
    arrays = read_npz(VECTORS / "aria" / "projector.npz")
    meta = {**json.loads(str(arrays["meta"])), **changes}
    arrays["meta"] = np.array(json.dumps({name: value for name, value in meta.items() if value is not None}))
    write_npz(tmp_path / "case.npz", arrays)
    return tmp_path / "case.npz"


def test_what_is_given_counts_before_what_the_case_says(tmp_path: Path) -> None:
    with pytest.raises(pr.InputError, match="configuration"):
        pr.load("hf", VECTORS / "aria" / "projector.npz", config={})
    with pytest.raises(pr.InputError, match="does not say which implementation"):
        pr.load(edited(tmp_path, peer=None))
    with pytest.raises(pr.InputError, match="config, call and tied must be objects"):
        pr.load(edited(tmp_path, call=[1]))


def test_a_case_of_one_operation_has_nothing_to_load(capsys: Any) -> None:
    path = VECTORS / "torch" / "softmax.npz"
    with pytest.raises(pr.InputError, match="which has no parameters to load; check it"):
        pr.load(path)
    finished = invoke(capsys, "run", "--weights", path, "--inputs", path, "--output", "o.npz")
    finished.assert_refused("has no parameters to load")
