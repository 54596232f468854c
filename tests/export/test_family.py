"""Vectors of other implementations' resamplers and poolers, from their configurations alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from porting.cases import case_of

from perceiver_ref.cli import main
from perceiver_ref.porting.export.theirs import RECIPES

NAMES = (
    "ip-adapter/resampler_pos_emb",
    "diffusers/plus",
    "timm/pool_qknorm_pos_avg",
    "open-clip/pooler_packed",
    "siglip/head",
    "siglip/head2_mask",
    "xtts/resampler_proj_context",
    "naturalspeech2/resampler_mask",
    "chatterbox/perceiver",
    "kosmos2/kosmos2_eager",
    "kosmos2/kosmos2_5_sdpa",
)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_exported_passes_check(name: str, tmp_path: Path) -> None:
    meta = case_of(name).meta
    cls = meta["class"].rpartition(".")[2]
    assert (meta["peer"], cls) in RECIPES
    config = tmp_path / "config.json"
    config.write_text(json.dumps(meta["config"]))
    given = ["export", str(config), "--peer", meta["peer"], "--class", cls, "--out", str(tmp_path / "out")]
    assert main([*given, "--seed", "5"]) == 0
    assert list((tmp_path / "out").rglob("*.npz"))
    assert main(["check", str(tmp_path / "out")]) == 0
