"""What only perceiver-pytorch does, its names in two releases, and what is refused with one clear error."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from porting.cases import case_of
from support import assert_close, normal, random_parameters

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.models.attention import Attention
from perceiver_ref.peers import Given, Rebuilt, peer
from perceiver_ref.peers.lucidrains.perceiver.encoders import BlockEncoder
from perceiver_ref.peers.lucidrains.perceiver.quirks import (
    CONVENTIONS,
    AttentionResidual,
    AxisMajorFourier,
    GRUCell,
    GRUSelfAttention,
    LatentMixing,
    LinearAttention,
    VariedAttention,
    VariedCrossAttention,
)
from perceiver_ref.porting import check_case, check_file, run
from perceiver_ref.weights.formats.npz import write_npz

VECTORS = sorted((Path(__file__).parents[1] / "vectors" / "lucidrains-perceiver").glob("*.npz"))
HEADS = {"cross_heads": 1, "latent_heads": 2, "cross_dim_head": 3, "latent_dim_head": 2}
GRID = {**HEADS, "num_freq_bands": 2, "depth": 3, "max_freq": 6.0, "num_latents": 3, "latent_dim": 5, "num_classes": 4}
IO = {**HEADS, "depth": 3, "dim": 4, "queries_dim": 6, "logits_dim": 2, "num_latents": 3, "latent_dim": 5}
BLOCK = {**HEADS, "dim": 5, "context_dim": 4}
IMAGES = normal(0, 2, 3, 4, 3)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors_agree(path: Path) -> None:
    result = check_file(path)
    assert result.status == "pass", result.message or result.worst


def rebuild(cls: str, config: dict[str, Any], params: dict[str, np.ndarray] | None = None) -> Rebuilt:
    shapes = {name: array.shape for name, array in (params or {}).items()}
    return peer("lucidrains-perceiver").rebuild(cls, Given(config, params=shapes))


def weights(rebuilt: Rebuilt, seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays by the peer's names, in the peer's shapes."""
    shapes: dict[str, list[int]] = {}
    for binding in rebuilt.bindings:
        own = list(binding.shape[::-1])
        parts = next((n for part, n in (("to_kv.", 2), ("net.0", 2), ("to_qkv.", 3)) if part in binding.name), 1)
        shapes[binding.name] = [own[0] * parts, *own[1:]]
        if binding.name.endswith(("latents", "emb.weight")):
            shapes[binding.name] = list(binding.shape)
    return {name: normal(seed + i, *shape) for i, (name, shape) in enumerate(shapes.items())}


def outputs(rebuilt: Rebuilt, inputs: dict[str, np.ndarray], **called: Any) -> dict[str, np.ndarray]:
    return run(rebuilt, weights(rebuilt), inputs, called).outputs


def blocks_with_weights(rebuilt: Rebuilt) -> list[str]:
    found = (re.match(r"layers\.\d+", binding.name) for binding in rebuilt.bindings)
    return sorted({match[0] for match in found if match})


def test_tied_layers_leave_block_0_of_a_perceiver_out_and_not_of_a_perceiver_io() -> None:
    for tied, perceiver, io in ((True, 2, 1), (False, 3, 3)):
        option = {"weight_tie_layers": tied}
        for cls, config, own in (
            ("Perceiver", GRID, perceiver),
            ("gated.Perceiver", GRID, perceiver),
            ("mixed_latents.Perceiver", GRID, perceiver),
            ("PerceiverIO", IO, io),
        ):
            made = rebuild(cls, {**config, **option})
            assert blocks_with_weights(made) == [f"layers.{i}" for i in range(own)], cls


def test_attention_residuals_are_tied_as_the_blocks_are() -> None:
    for cls, config, own in (("Perceiver", GRID, 2), ("PerceiverIO", IO, 1)):
        made = rebuild(cls, {**config, "weight_tie_layers": True, "attn_residual": True})
        names = {b.name.split(".to_attn")[0] for b in made.bindings if b.name.startswith("attn_residuals")}
        assert names == {f"attn_residuals.{i}" for i in range(own)}


def test_fourier_features_go_axis_by_axis_and_sines_first() -> None:
    encoding = AxisMajorFourier(3, (8.0, 8.0), conventions=CONVENTIONS)
    made = encoding.apply({}, (2, 4), like=np.zeros(()))
    frequencies = np.linspace(1, 8 / 2, 3)
    for row, (y, x) in zip(made, ((y, x) for y in np.linspace(-1, 1, 2) for x in np.linspace(-1, 1, 4))):
        expected = [
            *np.sin(np.pi * frequencies * y),
            *np.cos(np.pi * frequencies * y),
            y,
            *np.sin(np.pi * frequencies * x),
            *np.cos(np.pi * frequencies * x),
            x,
        ]
        assert_close(row, np.array(expected))
    assert encoding.channels == len(expected) == 2 * (2 * 3 + 1)


def test_an_axis_of_one_element_is_at_minus_1() -> None:
    made = AxisMajorFourier(0, (8.0,), conventions=CONVENTIONS).apply({}, (1,), like=np.zeros(()))
    assert made.tolist() == [[-1.0]]


def inverted_weights(q: np.ndarray, k: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One head: (N, d), (M, d), (M,) -> (N, M)."""
    p = np.exp(q @ k.T / np.sqrt(q.shape[-1]))
    p = p / p.sum(0) * mask
    return p / np.maximum(p.sum(1, keepdims=True), 1e-8)


@pytest.mark.parametrize("mask", [[True, False, True, True], [False] * 4])
def test_inverted_attention_is_a_softmax_over_queries_then_shares_of_keys(mask: list[bool]) -> None:
    layer = VariedAttention(5, 4, 3, 3, 5, conventions=CONVENTIONS, inverted=True)
    p, x, z = random_parameters(layer), normal(1, 1, 3, 5), normal(2, 1, 4, 4)
    q, k, v = (array[0] @ p[name]["weight"] for array, name in ((x, "query"), (z, "key"), (z, "value")))
    expected = inverted_weights(q, k, np.array(mask)) @ v @ p["output"]["weight"] + p["output"]["bias"]
    assert_close(layer.apply(p, x, z, mask=np.array([[mask]]))[0], expected)
    if not any(mask):
        assert_close(expected, np.broadcast_to(p["output"]["bias"], expected.shape), tolerance=0)


def test_a_fully_masked_row_averages_all_values_where_attention_is_not_inverted() -> None:
    layer = VariedAttention(5, 4, 3, 3, 5, conventions=CONVENTIONS)
    p, x, z = random_parameters(layer), normal(1, 1, 3, 5), normal(2, 1, 4, 4)
    average = (z[0] @ p["value"]["weight"]).mean(0) @ p["output"]["weight"] + p["output"]["bias"]
    made = layer.apply(p, x, z, mask=np.zeros((1, 1, 4), bool))[0]
    assert_close(made, np.broadcast_to(average, made.shape))


def test_queries_that_join_are_keys_before_the_context_and_never_masked() -> None:
    plain = Attention(5, 5, 6, 6, 5, 2, CONVENTIONS)
    joining = VariedAttention(5, 5, 6, 6, 5, 2, CONVENTIONS, queries_join=True)
    p, x, z = random_parameters(plain), normal(1, 2, 3, 5), normal(2, 2, 4, 5)
    mask = np.array([[[True, False, True, True]], [[False] * 4]])
    joined, open_ = np.concatenate([x, z], axis=1), np.concatenate([np.ones((2, 1, 3), bool), mask], axis=2)
    assert_close(joining.apply(p, x, z, mask=mask), plain.apply(p, x, joined, mask=open_))
    assert_close(joining.apply(p, x, x), plain.apply(p, x, x))  # of x on itself, x joins only once


def test_equal_logits_of_an_attention_residual_average_the_blocks() -> None:
    residual = AttentionResidual(4, 2)
    p = random_parameters(residual)
    p["up"]["weight"] = np.zeros((2, 4))
    blocks = [normal(i, 2, 3, 4) for i in range(3)]
    assert_close(residual.apply(p, blocks), sum(blocks) / 3)


def test_a_gru_gate_that_stays_shut_keeps_x_and_an_open_one_forgets_it() -> None:
    cell = GRUCell(3)
    p, x, state = random_parameters(cell), normal(1, 2, 3), normal(2, 2, 3)
    shut, opened = (tree.map(np.copy, p) for _ in range(2))
    shut["input"]["bias"][3:6], opened["input"]["bias"][3:6] = 1e3, -1e3
    opened["input"]["bias"][:3] = -1e3  # the candidate without the state's part
    assert_close(cell.apply(shut, x, state), state)
    candidate = x @ p["input"]["weight"][:, 6:] + p["input"]["bias"][6:]
    assert_close(cell.apply(opened, x, state), np.tanh(candidate))


def test_a_gated_layer_has_the_gate_in_place_of_the_residual() -> None:
    layer = GRUSelfAttention(4, 2, conventions=CONVENTIONS)
    p, x = random_parameters(layer), normal(1, 2, 3, 4)
    p["gru"]["input"]["bias"][4:8] = 1e3
    p["mlp"]["output"] = {"weight": np.zeros((4, 4)), "bias": np.zeros(4)}
    assert_close(layer.apply(p, x), x)


def test_linear_attention_multiplies_queries_with_keys_and_the_values_with_that() -> None:
    layer = LinearAttention(3, heads=1, head_channels=2)
    p, x = random_parameters(layer), normal(1, 1, 4, 3)
    q, k, v = (x[0] @ p[name]["weight"] for name in ("query", "key", "value"))
    q, k = np.exp(q / np.sqrt(2)), np.exp(k)
    q, k = q / q.sum(1, keepdims=True), k / k.sum(0)
    expected = np.einsum("de,nd->ne", np.einsum("nd,ne->de", q, k), v)
    assert_close(layer.apply(p, x)[0], expected @ p["output"]["weight"] + p["output"]["bias"])


def test_mixing_adds_one_number_to_all_channels_of_a_latent() -> None:
    layer = LatentMixing(3, 5)
    p, x = random_parameters(layer), normal(1, 2, 3, 5)
    p["mixer"]["output"]["weight"] = np.zeros((12, 3))
    p["mlp"]["output"] = {"weight": np.zeros((20, 5)), "bias": np.zeros(5)}
    assert_close(layer.apply(p, x), x + p["mixer"]["output"]["bias"][:, None])


def test_the_decoder_has_no_residual_around_its_attention() -> None:
    made = rebuild("PerceiverIO", {**IO, "logits_dim": None})
    arrays = weights(made)
    arrays["decoder_cross_attn.fn.to_out.weight"][:] = 0
    inputs = {"data": normal(1, 2, 3, 4), "queries": normal(2, 2, 7, 6)}
    out = run(made, arrays, inputs, {}).outputs["out"]
    assert_close(out, np.broadcast_to(arrays["decoder_cross_attn.fn.to_out.bias"], out.shape))


def test_hidden_states_begin_with_the_latents_or_with_what_the_only_cross_attention_gives() -> None:
    made = rebuild("Perceiver", GRID)
    hiddens = outputs(made, {"data": IMAGES}, return_hiddens=True)
    assert list(hiddens) == ["out0", *(f"out1.{i}" for i in range(4))]
    assert np.array_equal(hiddens["out1.0"], np.stack([weights(made)["latents"]] * 2))
    made = rebuild("PerceiverIO", IO)
    points = {"encoder.cross_attention", "encoder"}
    ran = run(made, weights(made), {"data": normal(1, 2, 3, 4)}, {"return_hiddens": True}, points=points.__contains__)
    assert np.array_equal(ran.outputs["out1.0"], ran.trace["encoder.cross_attention"])
    assert np.array_equal(ran.outputs["out1.3"], ran.trace["encoder"])


def test_given_hidden_states_replace_the_first_and_count_in_the_attention_residual() -> None:
    given = {"data": IMAGES, "block_outputs.0": normal(3, 2, 3, 5), "block_outputs.1": normal(4, 2, 3, 5)}
    plain, residual = (rebuild("Perceiver", {**GRID, "attn_residual": used}) for used in (False, True))
    made = outputs(plain, given, return_hiddens=True)
    assert list(made) == ["out0", *(f"out1.{i}" for i in range(5))]
    assert np.array_equal(made["out1.1"], given["block_outputs.1"])
    assert np.array_equal(made["out0"], outputs(plain, {"data": IMAGES})["out"])
    changed = {**given, "block_outputs.0": normal(5, 2, 3, 5)}
    assert not np.allclose(outputs(residual, given)["out"], outputs(residual, changed)["out"])


def test_a_mask_may_have_the_axes_of_the_data_or_one() -> None:
    made = rebuild("Perceiver", GRID)
    mask = normal(6, 2, 3, 4) > 0
    grid, line = (outputs(made, {"data": IMAGES, "mask": m})["out"] for m in (mask, mask.reshape(2, 12)))
    assert np.array_equal(grid, line)
    assert not np.allclose(grid, outputs(made, {"data": IMAGES})["out"])


def test_keys_are_the_first_rows_of_the_fused_weight_and_gates_the_last_of_the_mlp() -> None:
    made = rebuild("PerceiverBlock", BLOCK)
    arrays = weights(made)
    params, _ = made.load(arrays, "here")
    cross = params["cross_attention"]
    fused, hidden = arrays["cross_attn.fn.to_kv.weight"], arrays["cross_ff.fn.net.0.weight"]
    assert np.array_equal(cross["attention"]["key"]["weight"], fused[:3].T)
    assert np.array_equal(cross["attention"]["value"]["weight"], fused[3:].T)
    assert np.array_equal(cross["mlp"]["hidden"]["weight"], hidden[:20].T)
    assert np.array_equal(cross["mlp"]["gate"]["weight"], hidden[20:].T)
    assert all(np.shares_memory(cross["attention"][name]["weight"], fused) for name in ("key", "value"))


def old_name(name: str, io: bool) -> str:
    """The name that releases until 0.9 gave a parameter of 0.11."""
    name = name.replace("cross_attend_block.cross_attn", "cross_attend_blocks.0")
    name = name.replace("cross_attend_block.cross_ff", "cross_attend_blocks.1")
    name = re.sub(r"(layers\.\d+)\.cross_attn", r"\1.0", name)
    name = re.sub(r"(layers\.\d+)\.cross_ff", r"\1.1", name)
    return re.sub(r"(layers\.\d+)\.self_attns\.(\d+)\.([01])", r"\1.\3" if io else r"\1.2.\2.\3", name)


@pytest.mark.parametrize("name", ["perceiver_tied", "perceiver_1d_nofourier", "io_ff_tied_mask", "lm"])
def test_names_of_releases_until_0_9_are_known(name: str) -> None:
    case = case_of(f"lucidrains-perceiver/{name}")
    io = not name.startswith("perceiver")
    before = set(case.params)
    for group in (case.params, case.grad_params):
        arrays = {old_name(key, io): array for key, array in group.items()}
        group.clear()
        group.update(arrays)
    assert not any("self_attns" in key or "cross_attn." in key for key in case.params if "decoder" not in key)
    assert len(case.params) == len(before)
    case.meta["tied"] = {old_name(a, io): old_name(b, io) for a, b in case.meta["tied"].items()}
    case.trace.clear()
    result = check_case(case)
    assert (result.status, [a for a in result.agreements if not a.passed]) == ("pass", [])


def test_names_of_0_9_are_those_of_its_modules() -> None:
    """Read off the state dict of a Perceiver and a PerceiverIO of that release."""
    perceiver = {b.name for b in rebuild("Perceiver", GRID, {"layers.0.0.fn.to_q.weight": np.zeros(0)}).bindings}
    assert {"layers.0.0.norm_context.weight", "layers.1.1.fn.net.2.bias", "layers.2.2.0.1.fn.net.0.weight"} <= perceiver
    io = {b.name for b in rebuild("PerceiverIO", IO, {"cross_attend_blocks.0.norm.bias": np.zeros(0)}).bindings}
    assert {"cross_attend_blocks.0.fn.to_kv.weight", "cross_attend_blocks.1.norm.bias"} <= io
    assert {"layers.0.0.fn.to_kv.weight", "layers.2.1.fn.net.2.bias", "decoder_cross_attn.norm_context.weight"} <= io


def test_a_checkpoint_of_the_package_is_loaded_by_its_constructor_arguments(tmp_path: Path) -> None:
    made = rebuild("Perceiver", GRID)
    write_npz(tmp_path / "weights.npz", weights(made))
    model, params = pr.load("lucidrains-perceiver", tmp_path / "weights.npz", "Perceiver", config=GRID)
    assert isinstance(model.encoder, BlockEncoder)
    assert_close(model.apply(params, IMAGES), outputs(made, {"data": IMAGES})["out"])


def test_the_module_path_of_a_class_tells_the_variants_apart() -> None:
    plain = {**GRID, "fourier_encode_data": False}  # which mixed_latents takes no notice of
    kinds = {
        path: type(rebuild(f"perceiver_pytorch.{path}.Perceiver", plain).model.encoder).__name__
        for path in ("perceiver_pytorch", "mixed_latents", "experimental")
    }
    kinds["gated"] = type(rebuild("perceiver_pytorch.gated.Perceiver", GRID).model.encoder).__name__
    assert kinds == {
        "gated": "GatedEncoder",
        "perceiver_pytorch": "BlockEncoder",
        "mixed_latents": "MixedLatentsEncoder",
        "experimental": "TwoWayEncoder",
    }


def test_mixed_latents_takes_no_notice_of_a_perceivers_other_options() -> None:
    plain, given = (rebuild("mixed_latents.Perceiver", GRID | more).model for more in ({}, {"self_per_cross_attn": 2}))
    assert plain == given
    with pytest.raises(pr.InputError, match=r"unknown option of gated\.Perceiver 'self_per_cross_attn'"):
        rebuild("gated.Perceiver", GRID | {"self_per_cross_attn": 2})


def without(config: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != name}


BAD_CONFIGURATIONS = {
    "unknown class": ("Perceivr", GRID, "unknown class of peer lucidrains-perceiver 'Perceivr'; did you mean"),
    "unknown option": ("Perceiver", {**GRID, "n_latents": 3}, "unknown option of Perceiver 'n_latents'"),
    "missing depth": ("Perceiver", without(GRID, "depth"), "Perceiver needs the option 'depth'"),
    "missing max_freq": ("gated.Perceiver", without(GRID, "max_freq"), "needs the option 'max_freq'"),
    "missing queries_dim": ("PerceiverIO", without(IO, "queries_dim"), "PerceiverIO needs the option 'queries_dim'"),
    "missing tokens": ("PerceiverLM", without(without(IO, "queries_dim"), "logits_dim"), "needs the option 'num_t"),
    "width of a language model's queries": ("PerceiverLM", IO, "unknown option of PerceiverLM 'queries_dim'"),
    "text for depth": ("Perceiver", {**GRID, "depth": "2"}, "'depth' of Perceiver must be a whole number"),
    "broken depth": ("Perceiver", {**GRID, "depth": 1.5}, "'depth' of Perceiver must be a whole number"),
    "depth true": ("Perceiver", {**GRID, "depth": True}, "'depth' of Perceiver must be a whole number"),
    "no depth": ("Perceiver", {**GRID, "depth": 0}, "'depth' of Perceiver must be at least 1, got 0"),
    "no heads": ("PerceiverIO", {**IO, "latent_heads": 0}, "'latent_heads' of PerceiverIO must be at least 1"),
    "negative bands": (
        "Perceiver",
        {**GRID, "num_freq_bands": -1},
        "'num_freq_bands' of Perceiver must not be negative",
    ),
    "max_freq a list": ("Perceiver", {**GRID, "max_freq": [8.0]}, "'max_freq' of Perceiver must be a number"),
    "dropout text": ("Perceiver", {**GRID, "ff_dropout": "0.1"}, "'ff_dropout' of Perceiver must be a number"),
    "tied a number": ("Perceiver", {**GRID, "weight_tie_layers": 1}, "'weight_tie_layers' of Perceiver must be true"),
    "logits_dim a list": ("PerceiverIO", {**IO, "logits_dim": [2]}, "'logits_dim' of PerceiverIO must be a whole"),
    "inverted too few": ("Perceiver", {**GRID, "inverted_cross_attn": [True]}, "must be true, false, or a list of 3"),
    "inverted text": ("Perceiver", {**GRID, "inverted_cross_attn": "yes"}, "must be true, false, or a list of 3"),
    "inverted list": ("PerceiverIO", {**IO, "inverted_cross_attn": [True]}, "must be true or false: it has one"),
    "joining others": ("PerceiverBlock", {**BLOCK, "queries_contribute_kv": True}, "needs context_dim to be 5"),
    "experimental": ("experimental.Perceiver", GRID, "needs fourier_encode_data=False: with it the peer fails"),
    "a list": ("Perceiver", [GRID], "the options of Perceiver must be an object"),
}


@pytest.mark.parametrize("what", BAD_CONFIGURATIONS)
def test_a_configuration_that_cannot_be_used_gives_one_clear_error(what: str) -> None:
    cls, config, message = BAD_CONFIGURATIONS[what]
    with pytest.raises(pr.InputError, match=re.escape(message)) as error:
        rebuild(cls, config)
    assert "\n" not in str(error.value)


DATA = normal(1, 2, 3, 4)
BAD_CALLS = {
    "no data": ("Perceiver", GRID, {}, {}, "needs the argument 'data'"),
    "too few axes": ("Perceiver", GRID, {"data": DATA}, {}, "(batch, 2 axes, 3 channels), got float64 of (2, 3, 4)"),
    "channels first": ("Perceiver", GRID, {"data": IMAGES.transpose(0, 3, 1, 2)}, {}, "got float64 of (2, 3, 3, 4)"),
    "integers": ("Perceiver", GRID, {"data": np.zeros((2, 3, 4, 3), int)}, {}, "floating point"),
    "a mask of other axes": (
        *("Perceiver", GRID, {"data": IMAGES, "mask": np.ones((2, 3, 5), bool)}, {}),
        "must be bool of shape (2, 12), True = attend; got bool of (2, 15)",
    ),
    "a mask of another batch": (
        *("gated.Perceiver", GRID, {"data": IMAGES, "mask": np.ones((3, 3, 4), bool)}, {}),
        "must be bool of shape (2, 12), True = attend; got bool of (3, 12)",
    ),
    "a mask of numbers": (
        *("PerceiverIO", IO, {"data": DATA, "mask": np.ones((2, 3))}, {}),
        "must be bool of shape (2, 3), True = attend; got float64 of (2, 3)",
    ),
    "a mask without keys": (
        "Attention",
        {"query_dim": 4},
        {"x": DATA, "mask": np.ones(2, bool)},
        {},
        "of shape (2, 3)",
    ),
    "data of other width": ("PerceiverIO", IO, {"data": normal(1, 2, 3, 5)}, {}, "must be (batch, positions, 4)"),
    "data without batch": ("PerceiverIO", IO, {"data": DATA[0]}, {}, "data must be (batch, elements, 4), got (3, 4)"),
    "queries of other width": (
        *("PerceiverIO", IO, {"data": DATA, "queries": DATA}, {}),
        "queries must be (batch, outputs, 6), got (2, 3, 4)",
    ),
    "a mask between experimental blocks": (
        *("experimental.Perceiver", {**GRID, "fourier_encode_data": False}),
        *({"data": IMAGES, "mask": np.ones((2, 3, 4), bool)}, {}, "takes a mask only with depth 1"),
    ),
    "no context": ("PerceiverBlock", BLOCK, {"x": normal(1, 2, 3, 5)}, {}, "needs the argument 'context'"),
    "an unknown argument": ("PerceiverIO", IO, {"data": DATA, "query": DATA}, {}, "unknown argument of PerceiverIO"),
    "an unknown option": ("PerceiverIO", IO, {"data": DATA}, {"return_embeddings": True}, "unknown option of Perc"),
    "tokens beyond the vocabulary": (
        *("PerceiverLM", {**HEADS, "depth": 1, "dim": 4, "num_tokens": 7, "max_seq_len": 3, "num_latents": 2}),
        *({"x": np.array([[7]])}, {}, "token ids must be in [0, 7)"),
    ),
}


@pytest.mark.parametrize("what", BAD_CALLS)
def test_a_call_that_cannot_be_made_gives_one_clear_error(what: str) -> None:
    cls, config, inputs, called, message = BAD_CALLS[what]
    rebuilt = rebuild(cls, config)
    with pytest.raises(pr.InputError, match=re.escape(message)) as error:
        run(rebuilt, weights(rebuilt), inputs, called)
    assert "\n" not in str(error.value)


def test_parameters_that_do_not_fit_are_listed_by_the_peers_names() -> None:
    made = rebuild("PerceiverBlock", BLOCK)
    arrays = weights(made)
    arrays["cross_attn.fn.to_k.weight"] = arrays.pop("cross_attn.fn.to_kv.weight")
    with pytest.raises(pr.InputError, match=r"missing: cross_attn\.fn\.to_kv\.weight; unused: cross_attn\.fn\.to_k"):
        made.load(arrays, "here")


def test_one_inverted_cross_attention_is_that_of_its_block_alone() -> None:
    config = {**GRID, "inverted_cross_attn": [False, True, False]}
    encoder = rebuild("Perceiver", config).model.encoder
    made = [encoder.cross_attention_of(b) for b in range(3)]
    assert all(isinstance(layer, VariedCrossAttention) for layer in made)
    assert [layer.inverted for layer in made] == [False, True, False]
    assert replace(made[1], inverted=False) == made[0]
