"""A configuration proposed for a port that states none: right, or said to be undecided; never verified wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from porting.proposed_models import MODELS, made, wrong

import perceiver_ref as pr
from perceiver_ref.cli import main
from perceiver_ref.errors import InputError
from perceiver_ref.porting.bind.configurations import guesses
from perceiver_ref.porting.cases import Case, write_case


@pytest.mark.heavy
@pytest.mark.parametrize("name", MODELS)
def test_the_configuration_is_found(name: str) -> None:
    port, config = made(name)
    found = pr.bind(port, seconds=120)
    assert found.verified, found.message
    best = next(candidate for candidate in found.proposal.candidates if candidate.verified)
    assert wrong(config, best.config, best.undecided) == []


@pytest.mark.heavy
@pytest.mark.parametrize("name", MODELS)
def test_outputs_alone_give_it_or_nothing(name: str) -> None:
    port, config = made(name, traced=False)
    found = pr.bind(port, seconds=60)
    for candidate in found.proposal.candidates:
        assert not candidate.verified or wrong(config, candidate.config, candidate.undecided) == []


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_is_guessed(name: str) -> None:
    """From shapes alone: among the guesses is one that has the parts of the model."""
    port, config = made(name)
    parts = {key: value["type"] for key, value in config.items() if isinstance(value, dict) and key != "conventions"}
    assert any(
        guess.config["type"] == config["type"] and all(guess.config[key]["type"] == kind for key, kind in parts.items())
        for guess in guesses(port)
    )


def test_no_value_within_rounding_is_decided() -> None:
    """A wrong output verifies nothing."""
    port, _ = made("gated vector")
    port.outputs = {name: array + 1e-6 for name, array in port.outputs.items()}
    found = pr.bind(port, seconds=3)
    assert not found.verified
    assert not any(candidate.verified for candidate in found.proposal.candidates)


def test_shapes_of_nothing_known() -> None:
    port, _ = made("gated vector")
    port.params = dict(list(port.params.items())[:3])
    assert guesses(port) == []
    with pytest.raises(InputError, match="say what it is with --to"):
        pr.bind(Case(port.meta, port.params, inputs=port.inputs, outputs=port.outputs))


@pytest.mark.heavy
def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port, config = made("encoder")
    write_case(tmp_path / "port.npz", port)
    assert main(["bind", str(tmp_path / "port.npz"), "--out", str(tmp_path / "map.json")]) == 0
    assert "verified: PerceiverIO(encoder Encoder(inputs 7, latents 5, channels 12" in capsys.readouterr().out
    to = json.loads((tmp_path / "map.json").read_text())["to"]
    assert to["config"]["encoder"]["self_heads"] == config["encoder"]["self_heads"]
    assert main(["check", str(tmp_path / "port.npz"), "--map", str(tmp_path / "map.json")]) == 0
