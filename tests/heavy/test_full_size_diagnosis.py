"""`diagnose` at the sizes that people have: transformers' models with a deviation planted in the live peer.

Times are told in those of `perceiver-ref run` of the same model on the same machine (`pytest -m heavy -s`), with
`--backend cupy` both on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
from heavy.peer import randomise, torch, transformers
from mutants.backward import wrong

import perceiver_ref as pr
from perceiver_ref.porting.cases import read_case, write_case
from perceiver_ref.weights.formats.npz import write_npz

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("backend"), pytest.mark.filterwarnings("default")]
modeling = transformers.models.perceiver.modeling_perceiver
RUNS, RUNS_WITHOUT, GIB = 3.0, 10.0, 2**30
SMALLER = {
    "qk_channels": 64,
    "v_channels": 256,
    "d_latents": 256,
    "num_latents": 61,
    "d_model": 192,
    "num_self_attends_per_block": 6,
    "max_position_embeddings": 331,
}


def language(size: str) -> tuple[Any, dict[str, Any]]:
    config = transformers.PerceiverConfig(**(SMALLER if size == "middle" else {"qk_channels": 256, "v_channels": 1280}))
    count = config.max_position_embeddings
    ids = np.random.default_rng(0).integers(6, 262, (1, count))
    mask = (np.arange(count) < 3 * count // 4)[None].astype(np.int64)
    return transformers.PerceiverForMaskedLM(config).eval(), {"inputs": ids, "attention_mask": mask}


def images(size: str) -> tuple[Any, dict[str, Any]]:
    config = transformers.PerceiverConfig(
        num_latents=512,
        d_latents=1024,
        d_model=261,
        num_blocks=8,
        num_self_attends_per_block=6,
        num_cross_attention_heads=1,
        num_self_attention_heads=8,
        num_labels=1000,
    )
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    return transformers.PerceiverForImageClassificationFourier(config).eval(), {"inputs": pixels}


def tanh_gelu(model: Any, patch: pytest.MonkeyPatch) -> None:
    for part in model.modules():
        if isinstance(part, modeling.PerceiverMLP):
            part.intermediate_act_fn = torch.nn.GELU(approximate="tanh")


def epsilon(model: Any, patch: pytest.MonkeyPatch) -> None:
    for part in model.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.eps = 1e-3


def transposed(model: Any, patch: pytest.MonkeyPatch) -> None:
    layers = model.perceiver.encoder.self_attends
    weight = layers[len(layers) // 2].attention.output.dense.weight
    with torch.no_grad():
        weight.copy_(weight.T.clone())


def unscaled(model: Any, patch: pytest.MonkeyPatch) -> None:
    class Other:
        sqrt = staticmethod(lambda x: 1.0)

    patch.setattr(modeling, "math", Other)


def heads(model: Any, patch: pytest.MonkeyPatch) -> None:
    def split(self: Any, x: Any, width: int) -> Any:
        return x.view(*x.shape[:2], width, self.num_heads).permute(0, 3, 1, 2)

    patch.setattr(modeling.PerceiverSelfAttention, "transpose_for_scores", split)


def features_in_another_order(model: Any, patch: pytest.MonkeyPatch) -> None:
    original = modeling.generate_fourier_features

    def features(pos: Any, num_bands: int, **options: Any) -> Any:
        made = original(pos, num_bands, **options)
        axes, width = pos.shape[-1], pos.shape[-1] * num_bands
        return torch.cat([made[..., :axes], made[..., axes + width :], made[..., axes : axes + width]], -1)

    patch.setattr(modeling, "generate_fourier_features", features)


def encoder_without_residual(model: Any, patch: pytest.MonkeyPatch) -> None:
    layer = model.perceiver.encoder.cross_attention.attention
    forward = layer.forward

    def without(x: Any, *arguments: Any, **options: Any) -> Any:
        made = forward(x, *arguments, **options)
        return (made[0] - x, *made[1:])

    patch.setattr(layer, "forward", without)


def decoder_activation(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.perceiver.decoder.decoder.decoding_cross_attention.mlp.intermediate_act_fn = torch.nn.GELU(approximate="tanh")


def encoder_without_bias(model: Any, patch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        model.perceiver.encoder.cross_attention.attention.self.value.bias.zero_()


def queries_unnormed(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model.perceiver.encoder.cross_attention.attention.self.layernorm1, "forward", lambda x: x)


def keys_as_values(model: Any, patch: pytest.MonkeyPatch) -> None:
    for layer in model.perceiver.encoder.self_attends:
        part = layer.attention.self
        part.key, part.value = part.value, part.key


PLANTED: dict[str, Callable[[Any, pytest.MonkeyPatch], None]] = {
    "activation": tanh_gelu,
    "layer-norm-eps": epsilon,
    "weight-transposed": transposed,
    "attention-scale": unscaled,
    "head-layout": heads,
}

WITHOUT: dict[str, Callable[[Any, pytest.MonkeyPatch], None]] = {
    "encoder: query-residual": encoder_without_residual,
    "decoder: activation": decoder_activation,
    "encoder: bias-missing": encoder_without_bias,
    "encoder: norm-missing": queries_unnormed,
    "key-value-swapped": keys_as_values,
}
"""Of images without traces, besides those of all: in one place, or in all layers"""
UNTOLD = {"fourier-order": features_in_another_order}
"""What moves each latent another way: a few of them do not tell it"""


def softmax_without_sum(model: Any, patch: pytest.MonkeyPatch) -> None:
    class Parts:
        def __getattr__(self, name: str) -> Any:
            return getattr(torch.nn, name)

        @staticmethod
        def Softmax(dim: int) -> Any:  # noqa: N802
            return wrong.softmax_without_sum

    patch.setattr(modeling, "nn", Parts())


def constant_mean(model: Any, patch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: Any) -> Any:
        return wrong.layer_norm(x, x.shape[-1], self.weight, self.bias, self.eps, mean=False)

    patch.setattr(torch.nn.LayerNorm, "forward", forward)


def gelu_slope(model: Any, patch: pytest.MonkeyPatch) -> None:
    for part in model.modules():
        if isinstance(part, modeling.PerceiverMLP):
            another_slope(part, patch)


def another_slope(mlp: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mlp.intermediate_act_fn, "forward", lambda x: wrong.instead(wrong.gelu_erf(x), wrong.quick_gelu(x)))


def middle(model: Any) -> Any:
    layers = model.perceiver.encoder.self_attends
    return layers[len(layers) // 2]


def keys_detached(model: Any, patch: pytest.MonkeyPatch) -> None:
    key = middle(model).attention.self.key
    patch.setattr(key, "forward", lambda x: type(key).forward(key, x).detach())


def branch_halved(model: Any, patch: pytest.MonkeyPatch) -> None:
    mlp = middle(model).mlp
    patch.setattr(mlp, "forward", lambda x: wrong.times(type(mlp).forward(mlp, x), 0.5))


def gelu_slope_in_one(model: Any, patch: pytest.MonkeyPatch) -> None:
    another_slope(middle(model).mlp, patch)


def softmax_in_one(model: Any, patch: pytest.MonkeyPatch) -> None:
    attention = middle(model).attention.self
    forward = attention.forward

    def without_sum(*arguments: Any, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            softmax_without_sum(model, inner)
            return forward(*arguments, **options)

    patch.setattr(attention, "forward", without_sum)


BACKWARD: dict[str, Callable[[Any, pytest.MonkeyPatch], None]] = {
    "softmax-backward": softmax_without_sum,
    "norm-backward": constant_mean,
    "activation-backward": gelu_slope,
    "gradient-stopped": keys_detached,
    "gradient-factor": branch_halved,
}
SHARED: dict[str, Callable[[Any, pytest.MonkeyPatch], None]] = {
    "one layer: activation-backward": gelu_slope_in_one,
    "one layer: softmax-backward": softmax_in_one,
}
"""In one layer, which all blocks run with the same weights"""
BACKWARD |= SHARED


def timed(arguments: list[object]) -> tuple[int, float, float]:
    """A command in a process of its own: (exit code, seconds, peak bytes); processor time but on a GPU, so that what
    else the machine does is not in it."""
    started = time.perf_counter()
    given = [*map(str, arguments), "--backend", support.BACKEND]
    process = subprocess.Popen([sys.executable, "-m", "perceiver_ref", *given])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return (
        process.returncode,
        usage.ru_utime + usage.ru_stime if support.BACKEND == "numpy" else time.perf_counter() - started,
        usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def recorded(
    made: tuple[Any, dict[str, Any]], plant: str, folder: Path, patch: pytest.MonkeyPatch, *, traced: bool
) -> Path:
    """A case of the right weights and of what the model with the deviation makes of the inputs, forward or backward."""
    model, inputs = made
    randomise(model, seed=0)
    state = {name: value.clone().numpy() for name, value in model.state_dict().items()}
    given = {name: torch.from_numpy(array) for name, array in inputs.items() if not name.startswith("cotangent/")}
    {**PLANTED, **WITHOUT, **UNTOLD, **BACKWARD}[plant](model, patch)
    with (
        pr.record(model, folder / "case.npz", points=None if traced else set()),
        torch.set_grad_enabled(plant in BACKWARD),
    ):
        logits = model(**given).logits
        if plant in BACKWARD:
            (logits * torch.from_numpy(cotangent(logits.shape))).sum().backward()
    patch.undo()
    case = read_case(folder / "case.npz")
    case.params.update({name: state[name] for name in case.params if name in state})
    write_case(folder / "case.npz", case)
    return folder / "case.npz"


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(tuple(shape)).astype(np.float32)


def diagnosed(case: Path, *options: object) -> tuple[dict[str, Any], float, float]:
    code, seconds, memory = timed(["diagnose", case, "--json", case.with_suffix(".json"), *options])
    assert code in (0, 1)
    return json.loads(case.with_suffix(".json").read_text()), seconds, memory


@pytest.mark.parametrize("plant", PLANTED)
def test_a_middle_sized_model(plant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer parameters than large cases have: by the search of small ones."""
    found, seconds, _ = diagnosed(recorded(language("middle"), plant, tmp_path, monkeypatch, traced=True))
    print(f"\n{plant}: {found['verdict']}, {found['causes']} in {seconds:.1f} s")
    assert (found["verdict"], found["causes"]) == ("deviation", [plant])


def measured(made: Any, plant: str, folder: Path, patch: pytest.MonkeyPatch, *, traced: bool) -> dict[str, Any]:
    """What is said of a model of full size with a deviation: its cause, in the time of so many runs and in 2 GiB above
    the weights and the case."""
    model, inputs = made("full")
    case = recorded((model, inputs), plant, folder, patch, traced=traced)
    model.save_pretrained(folder / "weights")
    run = ["run", "--peer", "hf", "--weights", folder / "weights", "--inputs", folder / "inputs.npz"]
    if plant in BACKWARD:
        inputs["cotangent/logits"] = cotangent(read_case(case).outputs["logits"].shape)
        run.append("--grad")
    write_npz(folder / "inputs.npz", inputs)
    code, one, _ = timed([*run, "--output", folder / "out.npz"])
    assert code == 0
    found, seconds, memory = diagnosed(case)
    weights = sum(p.numel() for p in model.parameters()) * 4
    above = (memory - case.stat().st_size - weights) / GIB
    what = f"{made.__name__}, {plant}{'' if traced else ' without traces'}"
    print(f"\n{what}: {found['causes']}, {seconds / one:.1f} runs of {one:.1f} s, {above:+.1f} GiB")
    assert (found["verdict"], found["causes"]) == ("deviation", [plant.rpartition(": ")[2]])
    assert above <= 2 or support.BACKEND != "numpy"  # a GPU's libraries are in it
    reading = case.stat().st_size / 200e6 if traced else 0.0  # of the traced values
    assert seconds <= (RUNS if traced or plant in BACKWARD else RUNS_WITHOUT) * one + reading
    return found


@pytest.mark.parametrize("made", [language, images])
@pytest.mark.parametrize("plant", PLANTED)
def test_with_traces(made: Any, plant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if made is images and plant == "head-layout":
        pytest.skip("its cross-attentions have one head")
    assert measured(made, plant, tmp_path, monkeypatch, traced=True)["first_divergence"]


@pytest.mark.parametrize("plant", ["activation", "attention-scale", "head-layout"])
def test_without_traces(plant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is everywhere in the model is told by what it does to the last layers."""
    measured(language, plant, tmp_path, monkeypatch, traced=False)


@pytest.mark.parametrize("plant", ["activation", "layer-norm-eps", "attention-scale", "head-layout", *WITHOUT])
def test_images_without_traces(plant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of a single row: a few of the latents tell which deviation it is."""
    measured(images, plant, tmp_path, monkeypatch, traced=False)


@pytest.mark.parametrize("plant", UNTOLD)
def test_what_is_not_found_is_not_taken_for_another(
    plant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _, _ = diagnosed(recorded(images("full"), plant, tmp_path, monkeypatch, traced=False))
    assert (found["verdict"], found["causes"]) in (("unexplained", []), ("deviation", [plant]))


@pytest.mark.parametrize("plant", SHARED)
def test_gradients_of_one_layer_in_all_blocks(plant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(images, plant, tmp_path, monkeypatch, traced=False)
    assert found["explanation"][0]["variant"].endswith("in encoder.blocks.*.3")
    assert ".7.3." in found["first_divergence"]


@pytest.mark.parametrize("made", [language, images])
@pytest.mark.parametrize("plant", [plant for plant in BACKWARD if plant not in SHARED])
def test_gradients(made: Any, plant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong backward pass is told in the time of so many right ones, forward and backward."""
    if made is images and BACKWARD[plant] in (keys_detached, branch_halved):
        pytest.skip("one layer, run eight times with the same weights: not told in this time")
    assert measured(made, plant, tmp_path, monkeypatch, traced=False)["gradients"]["affected"]
