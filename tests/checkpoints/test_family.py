"""Released resamplers in the files that their users have: the published names and shapes, and what lies beside them.

The numbers of the files are zeros but for the latents; names and shapes are those of the releases (IP-Adapter's
loaders, coqui-tts' `GPT`, Chatterbox's `T3CondEnc`, MiniCPM-V 2.6's shards).
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import invoke
from files.torch_files import Called, Global, ordered, save

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.weights.checkpoints import CheckpointWarning, read_checkpoint
from perceiver_ref.weights.formats.npz import read_npz, write_npz
from perceiver_ref.weights.formats.safetensors_file import write_safetensors

Arrays = dict[str, np.ndarray]
HALF = np.float16


def zeros(shapes: dict[str, tuple[int, ...]], prefix: str = "") -> Arrays:
    """Arrays of these shapes; the latents count up."""
    made = {f"{prefix}{name}": np.zeros(shape, HALF) for name, shape in shapes.items()}
    for name, array in made.items():
        if re.search(r"latents$|query$", name):
            array.flat[:] = np.arange(array.size) % 1024
    return made


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def adapter(dim: int = 768, outputs: int = 768) -> dict[str, tuple[int, ...]]:
    """ip-adapter-plus_sd15: 4 layers, heads 64 wide, 16 queries, features of ViT-H/14."""
    shapes = {"latents": (1, 16, dim), **linear("proj_in", 1280, dim), **linear("proj_out", dim, outputs)}
    shapes |= norm("norm_out", outputs)
    for i in range(4):
        shapes |= {
            **norm(f"layers.{i}.0.norm1", dim),
            **norm(f"layers.{i}.0.norm2", dim),
            **norm(f"layers.{i}.1.0", dim),
        }
        shapes |= {f"layers.{i}.0.to_q.weight": (dim, dim), f"layers.{i}.0.to_kv.weight": (2 * dim, dim)}
        shapes |= {f"layers.{i}.0.to_out.weight": (dim, dim)}
        shapes |= {f"layers.{i}.1.1.weight": (4 * dim, dim), f"layers.{i}.1.3.weight": (dim, 4 * dim)}
    return shapes


ADAPTER = {"dim": 768, "depth": 4, "heads": 12, "num_queries": 16, "embedding_dim": 1280, "output_dim": 768}
BESIDE = {"1.to_k_ip.weight": (320, 768), "1.to_v_ip.weight": (320, 768)}


def xtts() -> dict[str, tuple[int, ...]]:
    """XTTS v2: 2 layers, 8 heads 64 wide, 32 latents, 1024 channels; the MLP is int(1024 * 4 * 2 / 3) = 2730 wide."""
    shapes = {"latents": (32, 1024), "norm.gamma": (1024,)}
    for i in range(2):
        shapes |= {f"layers.{i}.0.to_q.weight": (512, 1024), f"layers.{i}.0.to_kv.weight": (1024, 1024)}
        shapes |= {f"layers.{i}.0.to_out.weight": (1024, 512)}
        shapes |= {**linear(f"layers.{i}.1.0", 1024, 5460), **linear(f"layers.{i}.1.2", 2730, 1024)}
    return shapes


def chatterbox() -> dict[str, tuple[int, ...]]:
    parts = ("to_q", "to_k", "to_v", "proj_out")
    maps = {name: shape for part in parts for name, shape in linear(f"attn.{part}", 1024, 1024).items()}
    return {"pre_attention_query": (1, 32, 1024), **norm("attn.norm", 1024), **maps}


def minicpmv(width: int = 3584, features: int = 1152, queries: int = 64) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"query": (queries, width), "proj": (width, width)}
    shapes |= {"kv_proj.weight": (width, features), "attn.in_proj_weight": (3 * width, width)}
    shapes |= {"attn.in_proj_bias": (3 * width,), **linear("attn.out_proj", width, width)}
    return {**shapes, **norm("ln_q", width), **norm("ln_kv", width), **norm("ln_post", width)}


def loaded(*arguments: Any, **options: Any) -> tuple[Any, Any, list[str]]:
    """Model, parameters, and what was told."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CheckpointWarning)
        model, params = pr.load(*arguments, **options)
    return model, params, [str(warning.message) for warning in told]


def test_ip_adapter_plus_as_a_bin_of_two_parts(tmp_path: Path) -> None:
    path = tmp_path / "ip-adapter-plus_sd15.bin"
    arrays = zeros(adapter()) | zeros(BESIDE, "ip:")

    def wrap(made: dict[str, Any]) -> Any:
        ip = {name[3:]: tensor for name, tensor in made.items() if name.startswith("ip:")}
        return {"image_proj": {n: t for n, t in made.items() if not n.startswith("ip:")}, "ip_adapter": ip}

    path.write_bytes(save(arrays, wrap))
    model, params, told = loaded("ip-adapter", path, "Resampler", config=ADAPTER)
    assert model == pr.preset("ip-adapter/plus-sd15")
    assert np.array_equal(params["latents"], arrays["latents"][0])
    assert told == [f"{path}: took the weights of 'image_proj'; it also holds ip_adapter (--key chooses)"]


def test_ip_adapter_plus_as_safetensors_with_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "ip-adapter-plus_sd15.safetensors"
    arrays = zeros(adapter(), "image_proj.")
    write_safetensors(path, arrays | zeros(BESIDE, "ip_adapter."))
    model, params, told = loaded("ip-adapter", path, "Resampler", config=ADAPTER)
    assert np.array_equal(params["latents"], arrays["image_proj.latents"][0])
    assert any("below 'image_proj.'" in line for line in told)
    assert any("left out 2 arrays elsewhere: ip_adapter.1.to_k_ip.weight" in line for line in told)
    assert model.count() == sum(array.size for array in arrays.values())


def test_xtts_as_a_checkpoint_of_the_whole_model(tmp_path: Path) -> None:
    """`model.pth` holds a configuration, which is an object of coqui's, beside a whole model."""
    path = tmp_path / "model.pth"
    arrays = zeros(xtts(), "gpt.conditioning_perceiver.")
    others = {"gpt.gpt.h.0.ln_1.weight": (8,), "gpt.final_norm.weight": (8,), "hifigan_decoder.conv_pre.bias": (5,)}

    def wrap(made: dict[str, Any]) -> Any:
        config = Called(Global("TTS.tts.configs.xtts_config", "XttsConfig"), ())
        return {"config": config, "model": ordered(made), "step": 7}

    path.write_bytes(save(arrays | zeros(others), wrap))
    model, params, told = loaded("xtts", path, "PerceiverResampler", config={"dim": 1024})
    assert model == pr.preset("xtts/v2")
    assert np.array_equal(params["latents"], arrays["gpt.conditioning_perceiver.latents"])
    assert any("below 'gpt.conditioning_perceiver.'" in line for line in told)


def test_chatterbox_as_the_file_of_its_language_model(tmp_path: Path) -> None:
    path = tmp_path / "t3_cfg.safetensors"
    others = {"cond_enc.spkr_enc.weight": (1024, 256), "tfmr.layers.0.mlp.up_proj.weight": (7, 5)}
    arrays = zeros(chatterbox(), "cond_enc.perceiver.")
    write_safetensors(path, arrays | zeros(others))
    _, params, told = loaded("chatterbox", path, "Perceiver", config={})
    assert np.array_equal(params["latents"], arrays["cond_enc.perceiver.pre_attention_query"][0])
    assert any("below 'cond_enc.perceiver.'" in line for line in told)


MINICPMV = {
    "architectures": ["MiniCPMV"],
    "version": 2.6,
    "hidden_size": 3584,
    "query_num": 64,
    "vision_config": {"hidden_size": 1152, "model_type": "siglip", "patch_size": 14},
    "num_attention_heads": 28,
    "rope_theta": 1000000.0,
    "slice_config": {"max_slice_nums": 9},
}


def shards(folder: Path, shapes: dict[str, tuple[int, ...]], config: dict[str, Any]) -> Arrays:
    """A directory of two shards, in which the resampler is a part."""
    arrays = zeros(shapes, "resampler.") | zeros({"llm.model.norm.weight": (8,), "vpm.post_layernorm.bias": (6,)})
    index = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(arrays)}
    for shard in set(index.values()):
        write_safetensors(folder / shard, {name: arrays[name] for name in arrays if index[name] == shard})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config))
    return arrays


def test_minicpm_v_as_shards_with_the_configuration_of_the_whole(tmp_path: Path) -> None:
    """Smaller than published, by its own configuration; the published sizes are those of the preset."""
    config = {**MINICPMV, "hidden_size": 256, "query_num": 5, "vision_config": {"hidden_size": 48}}
    arrays = shards(tmp_path, minicpmv(256, 48, 5), config)
    model, params, told = loaded("minicpmv", tmp_path)
    assert (model.heads, model.latents, model.features) == (2, 5, 48)
    assert any("below 'resampler.'" in line for line in told)
    assert np.array_equal(params["latents"], arrays["resampler.query"])


def test_the_published_configuration_of_minicpm_v_gives_the_preset() -> None:
    rebuilt = pr.peers.peer("minicpmv").rebuild("MiniCPMV", pr.peers.Given(MINICPMV))
    assert rebuilt.model == pr.preset("minicpmv/2.6")
    assert {b.name for b in rebuilt.bindings} == set(minicpmv())


@pytest.mark.parametrize("version", [2.5, "4.0", 4, 4.5, None])
def test_versions_of_minicpm_v(version: Any) -> None:
    config = {**MINICPMV, "version": version}
    assert pr.peers.peer("minicpmv").rebuild("MiniCPMV", pr.peers.Given(config)).model.latents == 64


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": 2.0}, "version 2.0 is not among 2.5, 2.6, 4.0, 4.5; give the options of its resampler"),
        ({"version": "new"}, "version must be a number such as 2.6, got 'new'"),
        ({"version": None, "hidden_size": 2304}, "version 2.0 is not among"),
        ({"query_num": "many"}, "must be a whole number"),
    ],
)
def test_a_whole_configuration_that_is_not_known(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(pr.InputError, match=re.escape(message)):
        pr.peers.peer("minicpmv").rebuild("MiniCPMV", pr.peers.Given({**MINICPMV, **changed}))


SMALL = {"dim": 12, "depth": 1, "dim_head": 4, "heads": 3, "num_queries": 2, "embedding_dim": 7, "output_dim": 5}


def test_run_and_convert_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = pr.peers.peer("ip-adapter").rebuild("Resampler", pr.peers.Given(SMALL))
    rng = np.random.default_rng(0)
    names = {b.name for b in model.bindings}
    shapes = {n: s for n, s in small_shapes().items() if n in names}
    arrays = {f"image_proj.{name}": rng.standard_normal(shape) for name, shape in shapes.items()}
    write_safetensors(tmp_path / "w.safetensors", arrays)
    (tmp_path / "c.json").write_text(json.dumps(SMALL))
    write_npz(tmp_path / "x.npz", {"x": rng.standard_normal((2, 3, 7))})
    given = ["--peer", "ip-adapter", "--class", "Resampler", "--config", tmp_path / "c.json"]
    ran = ["run", *given, "--weights", tmp_path / "w.safetensors", "--inputs", tmp_path / "x.npz"]
    assert invoke(capsys, *ran, "--output", tmp_path / "y.npz").code == 0
    first = read_npz(tmp_path / "y.npz")
    assert next(iter(first.values())).shape == (2, 2, 5)
    convert = ["convert", *given, "--weights", tmp_path / "w.safetensors", "--output", tmp_path / "own.npz"]
    assert invoke(capsys, *convert).code == 0
    again = ["run", "--weights", tmp_path / "own.npz", "--inputs", tmp_path / "x.npz", "--output", tmp_path / "z.npz"]
    assert invoke(capsys, *again).code == 0
    second = read_npz(tmp_path / "z.npz")
    assert all(np.array_equal(first[name], second[name]) for name in first if name != "meta")
    back = ["convert", "--weights", tmp_path / "own.npz", "--to-peer", "--output", tmp_path / "back.safetensors"]
    assert invoke(capsys, *back).code == 0
    found = read_checkpoint("ip-adapter", tmp_path / "back.safetensors", "Resampler", config=SMALL).arrays
    assert all(np.array_equal(found[name], arrays[f"image_proj.{name}"]) for name in found)
    assert set(found) == names


def small_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {"latents": (1, 2, 12), **linear("proj_in", 7, 12), **linear("proj_out", 12, 5), **norm("norm_out", 5)}
    shapes |= {**norm("layers.0.0.norm1", 12), **norm("layers.0.0.norm2", 12), **norm("layers.0.1.0", 12)}
    shapes |= {"layers.0.0.to_q.weight": (12, 12), "layers.0.0.to_kv.weight": (24, 12)}
    shapes |= {"layers.0.0.to_out.weight": (12, 12), "layers.0.1.1.weight": (48, 12), "layers.0.1.3.weight": (12, 48)}
    return shapes


def test_parameters_of_the_presets_are_those_of_the_files() -> None:
    for name, shapes in (
        ("ip-adapter/plus-sd15", adapter()),
        ("ip-adapter/plus-sdxl", adapter(1280, 2048)),
        ("xtts/v2", xtts()),
        ("minicpmv/2.6", minicpmv()),
    ):
        assert pr.preset(name).count() == sum(int(np.prod(shape)) for shape in shapes.values()), name
        assert len(tree.flatten(pr.preset(name).parameters())) >= len(shapes)
