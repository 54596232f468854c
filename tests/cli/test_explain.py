"""`perceiver-ref explain`: the table, the JSON, and one clear line for bad input."""

from __future__ import annotations

import json

import pytest
from porting.cases import case_of

from perceiver_ref.cli import main

CONFIG = {
    "architectures": ["PerceiverForMaskedLM"],
    "num_latents": 8,
    "d_latents": 32,
    "d_model": 24,
    "num_self_attends_per_block": 2,
    "qk_channels": 16,
    "v_channels": 32,
    "vocab_size": 50,
    "max_position_embeddings": 12,
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


def explained(tmp_path, *arguments):
    path = tmp_path / "ledger.json"
    assert main(["explain", *arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_json_holds_exact_integers_that_add_up(tmp_path, capsys):
    result = explained(tmp_path, "perceiver/imagenet")
    assert result["parameters"] == 44_912_254
    assert round(result["flops"] / 1e9, 1) == 707.2
    for key, column in (("parameters", "parameters"), ("flops", "flops")):
        assert type(result[key]) is int
        assert sum(layer[column] for layer in result["layers"]) == result[key]
    memory = result["activation_bytes"]
    assert sum(layer["activation_bytes"] for layer in result["layers"]) == memory["training"]
    assert 0 < memory["inference"] <= memory["inference_plain"] < memory["training"]


def test_the_table_names_layers_rule_and_printed_figures(capsys):
    assert main(["explain", "perceiver-io/imagenet-fourier-b"]) == 0
    out = capsys.readouterr().out
    assert "encoder.blocks.*.*.attention.weights" in out
    assert "2 x multiply-accumulates" in out
    assert "212M parameters: agrees" in out
    assert "213B FLOPs: differs from 268," in out
    assert "printed FLOPs 12" in out


def test_batch_and_dtype_scale_what_they_should(tmp_path):
    one = explained(tmp_path, "perceiver-io/language-sp")
    two = explained(tmp_path, "perceiver-io/language-sp", "--batch", "2")
    double = explained(tmp_path, "perceiver-io/language-sp", "--dtype", "float64")
    assert two["flops"] == 2 * one["flops"] == 2 * double["flops"]
    assert two["parameters"] == one["parameters"]
    assert two["activation_bytes"]["training"] == 2 * one["activation_bytes"]["training"]
    ids = 512 * 8  # token ids are 8 bytes in either dtype
    assert double["activation_bytes"]["training"] - ids == 2 * (one["activation_bytes"]["training"] - ids)


def test_inputs_of_another_size(tmp_path):
    sizes = "audio=1920x1,image=4x56x56x3,label=700"
    result = explained(tmp_path, "perceiver-io/multimodal", "--inputs", sizes)
    assert result["inputs"] == {"audio": [1920, 1], "image": [4, 56, 56, 3], "label": [700]}
    shapes = {layer["name"]: layer["shape"] for layer in result["layers"]}
    assert shapes["encoder.cross_attention.key_value_norm"] == [1, 1920 // 16 + 4 * 14 * 14 + 1, 704]


def test_a_peers_configuration(tmp_path, config, capsys):
    result = explained(tmp_path, config, "--peer", "hf", "--batch", "3")
    names = {layer["name"]: layer for layer in result["layers"]}
    assert names["output"]["shape"] == [3, 12, 50]
    assert result["parameters"] == sum(layer["parameters"] for layer in result["layers"])


_FF = 12 * 512**2 + (8 + 1) * 512  # two maps with biases, the first of which has the gates
_ATTENTION = 4 * 512**2 + 512
OWN = [
    (
        *("edgetam", "EdgeTamVideoPerceiverResampler", {}, "64x64x64"),
        512 * 64 + 2 * (2 * (4 * 64 * 64 + 2 * 64 * 256) + 5 * 128) + 128,
    ),
    (
        *("aurora", "PerceiverResampler", {"latent_dim": 512, "context_dim": 256}, "latents=4x512,x=13x256"),
        2 * 512 * 1024 + 256 * 2048 + 2 * 512 * 2048 + 2048 + 512 + 4 * 512,
    ),
    (
        *("nemo", "PerceiverEncoder", {"num_layers": 1, "hidden_size": 8, "inner_size": 16}, "20x8"),
        32 * 8 + 3 * (2 * 288 + 280 + 3 * 16) + 2 * (288 + 280 + 2 * 16),
    ),
    (
        *("shape2vecset", "KLAutoEncoder", {}, "queries=1024x3"),
        *[52 * 512 + 26 * _ATTENTION + 25 * _FF + 53 * 1024 + 3 * 512 * 64 + 2 * 64 + 512 + 513],
    ),
    ("shape2vecset", "PointEmbed", {}, "20x3", 51 * 128 + 128),
]
"""A class of each peer whose model says what it takes, a configuration, inputs, and its parameters."""


@pytest.mark.parametrize(("peer", "cls", "config", "inputs", "parameters"), OWN, ids=[row[1] for row in OWN])
def test_a_model_that_says_what_it_takes(tmp_path, capsys, peer, cls, config, inputs, parameters):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    named = [str(path), "--peer", peer, "--class", cls]
    assert main(["explain", *named]) == 2
    wanted = capsys.readouterr().err
    assert "give numbers for each ?: --inputs" in wanted
    assert wanted.count("\n") == 1
    result = explained(tmp_path, *named, "--inputs", inputs)
    assert result["parameters"] == sum(layer["parameters"] for layer in result["layers"])
    assert result["parameters"] == parameters
    assert result["flops"] > 0


def test_a_model_that_knows_all_its_sizes(tmp_path):
    path = tmp_path / "config.json"
    config = {"num_tokens": 11, "dim": 8, "depth": 2, "max_seq_len": 12, "cross_attn_seq_len": 5, "dim_head": 32}
    path.write_text(json.dumps(config))
    result = explained(tmp_path, str(path), "--peer", "perceiver-ar-pytorch", "--class", "PerceiverAR", "--batch", "3")
    shapes = {layer["name"]: layer["shape"] for layer in result["layers"]}
    assert shapes["logits"] == [3, 7, 11]
    assert shapes["cross_attention.0.key_value_norm"] == [3, 5, 8]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("latents=4x512", "x must be of the shape ?x256"),
        ("latents=4x512,x=13x255", "x must be of the shape ?x256"),
        ("4x512", "several inputs"),
        ("latents=4x512,x=13x256,y=3", "unknown input of the model 'y'"),
    ],
)
def test_inputs_that_such_a_model_does_not_take(tmp_path, capsys, inputs, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"latent_dim": 512, "context_dim": 256}))
    named = [str(path), "--peer", "aurora", "--class", "PerceiverResampler", "--inputs", inputs]
    assert main(["explain", *named]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["perceiver/imagnet"], "did you mean 'perceiver/imagenet'"),
        (["nope"], "unknown preset 'nope'"),
        (["nope.json", "--peer", "hf"], "does not exist"),
        (["perceiver/imagenet", "--peer", "hf"], "is a preset"),
        (["perceiver/imagenet", "--batch", "0"], "at least 1"),
        (["perceiver/imagenet", "--inputs", "224x224"], "(batch, height, width, 3)"),
        (["perceiver/imagenet", "--inputs", "224x-1x3"], "is not a shape"),
        (["perceiver/imagenet", "--inputs", "image=224x224x3"], "single input"),
        (["perceiver/imagenet", "--inputs", "9999999999x9999999999x3"], "too large"),
        (["perceiver/imagenet", "--json", "missing/out.json"], "does not exist"),
        (["perceiver-io/language", "--inputs", "4096"], "at most 2048"),
        (["perceiver-io/optical-flow", "--inputs", "2x8x8x27"], "do not fit the model"),
        (["perceiver-io/audioset", "--inputs", "2048"], "several inputs"),
        (["perceiver-io/audioset", "--inputs", "audio=5x1,audio=5x1"], "each modality once"),
        (["perceiver-io/audioset", "--inputs", "audio=100x1,video=32x224x224x3"], "patch size 128"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, message, capsys):
    assert main(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_configuration_needs_its_peer_and_its_inputs(config, capsys):
    assert main(["explain", config]) == 2
    assert "--peer" in capsys.readouterr().err
    assert main(["explain", config, "--peer", "hf", "--class", "PerceiverModel"]) == 2
    assert "--inputs" in capsys.readouterr().err
    assert main(["explain", config, "--peer", "hf", "--class", "PerceiverModel", "--inputs", "12x24"]) == 0


PARTS_OF_MODELS = [
    ("ip-adapter/resampler_mean_pooled", "6x7"),
    ("ip-adapter/face_resampler", "features=6x7,latents=4x9"),
    ("ip-adapter/proj_plus", "id_embeds=7,clip_embeds=6x9"),
    ("diffusers/plus", "5x10"),
    ("diffusers/faceid_plus", "id_embeds=7,clip_embeds=6x10"),
    ("diffusers/time", "x=5x10,timestep=1"),
    ("pulid/idformer", "x=11,y.0=10x8,y.1=3x8,y.2=10x8,y.3=1x8,y.4=7x8"),
    ("timm/pool_qknorm_pos_avg", "5x12"),
    ("timm/pool_bool_mask_all_latents", "6x10"),
    ("open-clip/pooler", "7x10"),
    ("siglip/head2_mask", "7x10"),
    ("xtts/resampler_proj_context", "6x7"),
    ("naturalspeech2/resampler_mask", "5x6"),
    ("chatterbox/perceiver", "7x12"),
    ("kosmos2/kosmos2_eager", "6x7"),
    ("aria/projector", "7x12"),
    ("minicpmv/resampler2_adaptive", "9x11"),
    ("minicpmv/resampler25", "8x7"),
    ("minicpmv/resampler45_temporal", "8x7"),
]
"""Cases of resamplers and poolers, and the shapes of an example."""


@pytest.mark.parametrize(("name", "sizes"), PARTS_OF_MODELS, ids=[name for name, _ in PARTS_OF_MODELS])
def test_resamplers_and_poolers_count_the_parameters_of_their_peers(tmp_path, name, sizes):
    case = case_of(name)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(case.meta["config"]))
    cls = case.meta["class"].rpartition(".")[2]
    result = explained(tmp_path, str(config), "--peer", case.meta["peer"], "--class", cls, "--inputs", sizes)
    assert result["parameters"] == sum(array.size for array in case.params.values())
    assert result["flops"] > 0


def test_learned_positions_say_how_many_features_there_are(tmp_path):
    case = case_of("timm/pool_qknorm_pos_avg")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(case.meta["config"]))
    result = explained(tmp_path, str(config), "--peer", "timm", "--class", "AttentionPoolLatent")
    assert result["inputs"] == [5, 12]


def test_a_part_of_a_model_is_still_refused(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"dim": 8}))
    arguments = ["explain", str(config), "--peer", "ip-adapter", "--class", "PerceiverAttention", "--inputs", "3x8"]
    assert main(arguments) == 2
    assert "configures a part, LatentAttention; explain takes whole models" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--batch", "x"], ["--dtype", "float16"], ["--nope"]])
def test_unknown_options_are_usage_errors(option, capsys):
    with pytest.raises(SystemExit) as error:
        main(["explain", "perceiver/imagenet", *option])
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
