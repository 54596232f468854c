"""`to_dict()` of every configuration of transformers that a class here is of: taken, and the part of a whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heavy.peer import torch, transformers

import perceiver_ref as pr
from perceiver_ref.peers import Given, peer
from perceiver_ref.peers.inherited import INHERITED, PRETRAINED
from perceiver_ref.weights.checkpoints import CheckpointWarning, read_checkpoint

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]


def config_class(model: str, name: str) -> Any:
    module = getattr(transformers.models, model)
    return getattr(module, name)


ROWS = [
    ("hf", "PerceiverModel", "perceiver", "PerceiverConfig", {}),
    ("hf", "PerceiverForMaskedLM", "perceiver", "PerceiverConfig", {}),
    ("hf", "PerceiverForSequenceClassification", "perceiver", "PerceiverConfig", {"num_labels": 7}),
    ("hf", "PerceiverForImageClassificationLearned", "perceiver", "PerceiverConfig", {"num_cross_attention_heads": 1}),
    ("hf", "PerceiverForOpticalFlow", "perceiver", "PerceiverConfig", {"num_cross_attention_heads": 1}),
    ("idefics", "IdeficsPerceiverResampler", "idefics", "IdeficsConfig", {}),
    ("idefics", "IdeficsGatedCrossAttentionLayer", "idefics", "IdeficsConfig", {}),
    ("idefics2", "Idefics2PerceiverResampler", "idefics2", "Idefics2Config", {}),
    ("idefics2", "Idefics2PerceiverResampler", "idefics2", "Idefics2Config", {"text_config": {"hidden_size": 64}}),
    ("idefics2", "Idefics2PerceiverResampler", "idefics2", "Idefics2PerceiverConfig", {"resampler_depth": 1}),
    ("mllama", "MllamaCrossAttentionDecoderLayer", "mllama", "MllamaConfig", {}),
    ("mllama", "MllamaCrossAttentionDecoderLayer", "mllama", "MllamaTextConfig", {"hidden_size": 64}),
    ("evolla", "EvollaSequenceCompressorResampler", "evolla", "EvollaConfig", {}),
    ("edgetam", "EdgeTamVideoPerceiverResampler", "edgetam_video", "EdgeTamVideoConfig", {}),
    ("siglip", "SiglipMultiheadAttentionPoolingHead", "siglip", "SiglipVisionConfig", {"hidden_size": 48}),
    ("siglip", "SiglipMultiheadAttentionPoolingHead", "siglip", "SiglipConfig", {"vision_config": {"hidden_size": 48}}),
    ("siglip", "Siglip2MultiheadAttentionPoolingHead", "siglip2", "Siglip2Config", {}),
    ("kosmos2", "Kosmos2ImageToTextProjection", "kosmos2", "Kosmos2Config", {"latent_query_num": 3}),
    ("kosmos2", "Kosmos2_5ImageToTextProjection", "kosmos2_5", "Kosmos2_5Config", {}),
    ("aria", "AriaProjector", "aria", "AriaConfig", {"projector_patch_to_query_dict": {7: 5}}),
]


@pytest.mark.parametrize("saved", [False, True], ids=["to_dict", "save_pretrained"])
@pytest.mark.parametrize(("name", "cls", "model", "config", "options"), ROWS)
def test_it_is_taken(
    tmp_path: Path, name: str, cls: str, model: str, config: str, options: dict[str, Any], saved: bool
) -> None:
    made = config_class(model, config)(**options)
    made.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text()) if saved else json.loads(json.dumps(made.to_dict()))
    rebuilt = peer(name).rebuild(cls, Given(written)).model
    part = {"idefics2": "perceiver_config", "mllama": "text_config"}.get(name)
    own = getattr(made, part).to_dict() if part and hasattr(made, part) else made.to_dict()
    assert rebuilt == peer(name).rebuild(cls, Given(json.loads(json.dumps(own)))).model
    with pytest.raises(pr.InputError, match="unknown option"):
        peer(name).rebuild(cls, Given({**written, "num_latentz": 3}))


def test_every_inherited_field_is_known() -> None:
    assert set(transformers.PreTrainedConfig().to_dict()) <= PRETRAINED | INHERITED


def test_parts_of_whole_models(tmp_path: Path) -> None:
    """Of a saved IDEFICS, its resampler and the gated layer that is named; of an Evolla, its resampler."""
    config = config_class("idefics", "IdeficsConfig")(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        use_resampler=True,
        vision_config={"embed_dim": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1},
        perceiver_config={"resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 4, "use_resampler": True},
    )
    model = transformers.IdeficsForVisionText2Text(config)
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    resampler = read_checkpoint("idefics", tmp_path, "IdeficsPerceiverResampler")
    prefix = "model.perceiver_resampler."
    assert {prefix + name for name in resampler.arrays} == {name for name in state if name.startswith(prefix)}
    for name, array in resampler.arrays.items():
        np.testing.assert_array_equal(array, state[prefix + name].numpy())
    cls = "IdeficsGatedCrossAttentionLayer"
    with pytest.raises(pr.InputError, match=r"each of 'model.gated_cross_attn_layers.0.', 'model.gated_cross_attn"):
        read_checkpoint("idefics", tmp_path, cls)
    with pytest.warns(CheckpointWarning):
        pr.load("idefics", tmp_path, cls, prefix="model.gated_cross_attn_layers.1.")
    assert torch.is_tensor(state[f"{prefix}latents"])
