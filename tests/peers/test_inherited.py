"""Configurations of transformers as they are saved: whole models', with all that every configuration inherits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli.command import CONFIG, invoke, prepare

from perceiver_ref import InputError
from perceiver_ref.peers import Given, peer
from perceiver_ref.peers.base import told
from perceiver_ref.peers.inherited import INHERITED, PRETRAINED

V5 = {
    "transformers_version": "5.23.0", "architectures": None, "output_hidden_states": False, "return_dict": True,
    "dtype": None, "chunk_size_feed_forward": 0, "is_encoder_decoder": False, "id2label": {"0": "a", "1": "b"},
    "label2id": {"a": 0, "b": 1}, "problem_type": None, "_name_or_path": "", "output_attentions": False,
}  # fmt: skip
"""`PreTrainedConfig().to_dict()` of transformers 5.23, without `model_type`."""
V4 = {
    "return_dict": True, "output_hidden_states": False, "output_attentions": False, "torchscript": False,
    "torch_dtype": None, "use_bfloat16": False, "tf_legacy_loss": False, "pruned_heads": {},
    "tie_word_embeddings": True, "chunk_size_feed_forward": 0, "is_encoder_decoder": False, "is_decoder": False,
    "cross_attention_hidden_size": None, "add_cross_attention": False, "tie_encoder_decoder": False,
    "max_length": 20, "min_length": 0, "do_sample": False, "early_stopping": False, "num_beams": 1,
    "num_beam_groups": 1, "diversity_penalty": 0.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0,
    "typical_p": 1.0, "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "bad_words_ids": None, "num_return_sequences": 1, "output_scores": False,
    "return_dict_in_generate": False, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "remove_invalid_values": False, "exponential_decay_length_penalty": None, "suppress_tokens": None,
    "begin_suppress_tokens": None, "architectures": None, "finetuning_task": None, "id2label": {"0": "a", "1": "b"},
    "label2id": {"a": 0, "b": 1}, "tokenizer_class": None, "prefix": None, "bos_token_id": None,
    "pad_token_id": None, "eos_token_id": None, "sep_token_id": None, "decoder_start_token_id": None,
    "task_specific_params": None, "problem_type": None, "_name_or_path": "", "transformers_version": "4.40.0",
    "_attn_implementation_autoset": False, "_commit_hash": None,
}  # fmt: skip
"""The same of version 4.40, with two fields of its neighbours."""
CLASSES: list[tuple[str, str, dict[str, Any]]] = [
    ("hf", "PerceiverModel", {"num_latents": 4, "d_latents": 16, "d_model": 8}),
    ("hf", "PerceiverForMaskedLM", {"d_latents": 16, "d_model": 8, "num_labels": 3}),
    ("idefics", "IdeficsGatedCrossAttentionLayer", {"hidden_size": 8, "num_attention_heads": 2}),
    ("idefics2", "Idefics2PerceiverResampler", {"hidden_size": 8, "resampler_depth": 1}),
    (
        "mllama",
        "MllamaCrossAttentionDecoderLayer",
        {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1},
    ),
    ("evolla", "EvollaSequenceCompressorResampler", {"hidden_size": 8, "resampler_depth": 1}),
    ("edgetam", "EdgeTamVideoPerceiverResampler", {"perceiver_resampler_num_layers": 1, "image_size": 64}),
]
every_class = pytest.mark.parametrize(("name", "cls", "config"), CLASSES, ids=[row[1] for row in CLASSES])


@pytest.mark.parametrize("inherited", [V5, V4], ids=["5.23", "4.40"])
@every_class
def test_inherited_fields_are_ignored_and_told(
    name: str, cls: str, config: dict[str, Any], inherited: dict[str, Any]
) -> None:
    with told() as ignored:
        whole = peer(name).rebuild(cls, Given({**inherited, **config})).model
    assert whole == peer(name).rebuild(cls, Given(config)).model
    assert set(ignored) <= INHERITED
    assert bool(ignored) == (inherited is V4 or name != "hf")  # PerceiverConfig makes use of those of version 5
    assert {"top_k"} & set(inherited) <= set(ignored)


@pytest.mark.parametrize("typo", ["hidden_sizes", "top_kk", "output_attention", "quantization_config", "num_latent"])
@every_class
def test_a_typo_is_refused(name: str, cls: str, config: dict[str, Any], typo: str) -> None:
    with pytest.raises(InputError, match=f"unknown option of .* '{typo}'"):
        peer(name).rebuild(cls, Given({**V5, **config, typo: 1}))


def test_no_field_is_both_silent_and_told() -> None:
    assert not PRETRAINED & INHERITED


PERCEIVER2 = {"resampler_n_latents": 3, "resampler_depth": 2, "resampler_n_heads": 2, "num_key_value_heads": 1}
WIDE = {**PERCEIVER2, "hidden_size": 8, "rms_norm_eps": 1e-4}
WHOLE: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    (
        "idefics2",
        "Idefics2PerceiverResampler",
        {"perceiver_config": WIDE, "text_config": {"hidden_size": 8, "rms_norm_eps": 1e-3}, "image_token_id": 3},
        WIDE,
    ),
    (  # the width of the text model wins, and its epsilon comes with it
        "idefics2",
        "Idefics2PerceiverResampler",
        {"perceiver_config": PERCEIVER2, "text_config": {"hidden_size": 8, "rms_norm_eps": 1e-3}, "vision_config": {}},
        {**PERCEIVER2, "hidden_size": 8, "rms_norm_eps": 1e-3},
    ),
    (
        "idefics2",
        "Idefics2PerceiverResampler",
        {"perceiver_config": {**V5, **PERCEIVER2}},
        PERCEIVER2,
    ),
    (
        "idefics",
        "IdeficsPerceiverResampler",
        {
            "vision_config": {"embed_dim": 12},
            "perceiver_config": {
                **V5,
                "resampler_depth": 1,
                "resampler_n_latents": 3,
                "qk_layer_norms_perceiver": True,
            },
            "num_hidden_layers": 3,
        },
        {"embed_dim": 12, "depth": 1, "n_heads": 16, "head_dim": 96, "n_latents": 3, "qk_layer_norms": True},
    ),
    (
        "mllama",
        "MllamaCrossAttentionDecoderLayer",
        {
            "text_config": {**V5, "hidden_size": 8, "num_attention_heads": 8},
            "vision_config": {},
            "image_token_index": 3,
        },
        {"hidden_size": 8, "num_attention_heads": 8},
    ),
]


@pytest.mark.parametrize(("name", "cls", "whole", "own"), WHOLE)
def test_a_whole_models_configuration(name: str, cls: str, whole: dict[str, Any], own: dict[str, Any]) -> None:
    assert peer(name).rebuild(cls, Given({**V5, **whole})).model == peer(name).rebuild(cls, Given(own)).model
    with pytest.raises(InputError, match=r"unknown option of .* 'text_confg'"):
        peer(name).rebuild(cls, Given({**whole, "text_confg": {}}))


def test_what_a_configuration_lacks_is_in_the_weights() -> None:
    config = {**V5, "resampler_depth": 1}
    cls = "IdeficsPerceiverResampler"
    made = peer("idefics").rebuild(cls, Given(config, params={"latents": (64, 12)})).model
    assert made.channels == 12
    with pytest.raises(InputError, match="lacks the width of the vision encoder"):
        peer("idefics").rebuild(cls, Given(config))
    aligner, keys = "EvollaSequenceAlignerCrossAttention", {"key_protein.weight": (8, 5), "key_msa.weight": (8, 7)}
    given = Given({**V5, "hidden_size": 8, "num_attention_heads": 2}, params=keys)
    assert peer("evolla").rebuild(aligner, given).model.encoders == (("protein", 5), ("msa", 7))


def test_the_command_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path, {**V4, **CONFIG})
    finished = invoke(capsys, *files.arguments)
    assert finished.code == 0, finished.err
    (line,) = finished.err.splitlines()
    assert line.startswith("perceiver-ref run: note: the configuration: ignored what every one of transformers has: ")
    assert "torchscript" in line
    explained = invoke(capsys, "explain", tmp_path / "config.json", "--peer", "hf", "--inputs", "7")
    assert explained.code == 0, explained.err
    assert "note: the configuration: ignored what every one of transformers has: " in explained.err
    (tmp_path / "config.json").write_text(json.dumps({**V4, **CONFIG, "num_latentz": 3}))
    invoke(capsys, *files.arguments).assert_refused("unknown option", "num_latentz", "did you mean 'num_latents'")
