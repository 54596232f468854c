"""Recorded calls of the live PyTorch peers pass `check` with nothing typed by hand, whatever they compute in."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perceiver_ref as pr
from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.check import Result
from perceiver_ref.porting.record.structure import outputs

torch = pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
models = pytest.importorskip("heavy.record_models")
nn = torch.nn

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
torch.set_num_threads(1)
UNCOMPARED = {"input_adapter.frq_pos_encoding", "self_attention", "cross_attention.0.module.kv_norm"}
"""krasserm's points that the reference has no counterpart of: frequencies, and what a block gives once more."""


def name_of(one: Any) -> str:
    return one.stem if isinstance(one, Path) else one


def loss_of(out: Any, seed: int) -> Any:
    """Random numbers times every output that can have a gradient."""
    generator = torch.Generator().manual_seed(seed)
    found = [value for _, value in outputs(out) if torch.is_tensor(value) and value.requires_grad]
    return sum((value * torch.randn(value.shape, generator=generator).to(value.dtype)).sum() for value in found)


def recorded(module: Any, path: Path, *args: Any, **kwargs: Any) -> Result:
    with pr.record(module, path):
        loss = loss_of(module(*args, **kwargs), 1)
        if torch.is_tensor(loss):
            loss.backward()
    return pr.crosscheck.check_file(path)


def assert_exact(result: Result) -> None:
    """In float64: by the rounding of deep models, whatever the tolerance that the case names."""
    assert result.status == "pass", (result.message, result.worst)
    assert (result.error("output", "trace") or 0) < 1e-10, result.worst
    assert (result.error("grad_param", "grad_input") or 0) < 1e-8, result.worst


@pytest.mark.parametrize(("peer", "path"), models.paths(), ids=name_of)
def test_a_live_module_as_a_probe(tmp_path: Path, peer: str, path: Path) -> None:
    """Its state dict, saved as users do, is what `check` takes the weights from; other weights are refused."""
    live = models.live(peer, path)
    probe, weights = tmp_path / "probe.npz", tmp_path / "weights.pt"
    with live.context, pr.record(live.module, probe, probe=True, samples=5):
        loss = loss_of(live.module(*live.args, **live.kwargs), 1)
        if torch.is_tensor(loss):
            loss.backward()
    case = read_case(probe)
    assert not case.params
    torch.save(live.module.state_dict(), weights)
    needed = "weights" in case.meta["probe"]
    result = pr.crosscheck.check_file(probe, weights=weights if needed else None)
    assert_exact(result)
    compared = {f"{a.kind}/{a.name}" for a in result.agreements}
    assert {key for key in case.samples if not key.startswith("trace/")} <= compared
    if needed:
        state = {n: a + 1e-3 if a.is_floating_point() else a for n, a in live.module.state_dict().items()}
        torch.save(state, weights)
        assert "these are not the weights" in pr.crosscheck.check_file(probe, weights=weights).message


@pytest.mark.parametrize(("peer", "path"), models.paths(), ids=name_of)
def test_a_live_module_passes(tmp_path: Path, peer: str, path: Path) -> None:
    live = models.live(peer, path)
    with live.context:
        result = recorded(live.module, tmp_path / "case.npz", *live.args, **live.kwargs)
    assert_exact(result)
    case = read_case(tmp_path / "case.npz")
    assert case.meta["peer"] == peer
    kinds = {a.kind for a in result.agreements}
    if any(p.requires_grad for p in live.module.parameters()) and case.cotangents:
        assert "grad_param" in kinds
    points = {a.name for a in result.agreements if a.kind == "trace"}
    assert set(case.trace) - points <= UNCOMPARED


def flamingo() -> list[Any]:
    from heavy import flamingo_configurations

    return list(flamingo_configurations.KINDS)


def drawn(kind: Any, seed: int, dtype: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(module, arrays, options) of a class of flamingo-pytorch or of a relative in transformers."""
    from heavy import flamingo_configurations as live

    name, _, _, module, inputs, call = kind(live.Draw(seed))
    module = module.to(dtype).eval()
    live.randomise(module, seed)
    arrays = {key: torch.from_numpy(array.copy()) for key, array in inputs.items()}
    for key, array in arrays.items():
        if array.is_floating_point() and not key.startswith("raw_"):
            arrays[key] = array.to(dtype).requires_grad_()
    if name == "mllama":
        arrays, _ = live._prepared(arrays, call.get("num_vision_tokens"))
    options = {key: value for key, value in call.items() if key != "num_vision_tokens"}
    return module, arrays, options


@pytest.mark.parametrize("kind", flamingo(), ids=lambda kind: kind.__name__)
def test_relatives_of_flamingo_pass(tmp_path: Path, kind: Any) -> None:
    from heavy import flamingo_configurations as live
    from heavy.precision import promoted

    for seed in range(30):
        with promoted(*live.MODULES):
            module, arrays, options = drawn(kind, seed, torch.float64)
            result = recorded(module, tmp_path / "case.npz", **arrays, **options)
        assert_exact(result)
        assert not [note for note in result.notes if "no such point" in note]


@pytest.mark.parametrize("kind", flamingo(), ids=lambda kind: kind.__name__)
def test_as_they_are_in_float64(tmp_path: Path, kind: Any) -> None:
    """Where a class computes a part in float32, the case says so, and is held to that."""
    statuses = []
    for seed in range(20):
        module, arrays, options = drawn(kind, seed, torch.float64)
        result = recorded(module, tmp_path / "case.npz", **arrays, **options)
        infinite = any(torch.is_tensor(a) and a.is_floating_point() and a.abs().max() > 1e38 for a in arrays.values())
        if not infinite:  # the lowest float64 is no float32
            statuses.append(result.status)
    assert set(statuses) == {"pass"}


def real(*shape: int) -> Any:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def whole(most: int, *shape: int) -> Any:
    return torch.randint(0, most, shape)


MODULES: dict[str, Any] = {
    "linear": lambda: (nn.Linear(5, 7), (real(2, 3, 5),), {}),
    "linear without bias": lambda: (nn.Linear(5, 7, bias=False), (real(5),), {}),
    "embedding": lambda: (nn.Embedding(11, 3, padding_idx=2), (whole(11, 2, 5),), {}),
    "embedding max_norm": lambda: (nn.Embedding(11, 3, max_norm=0.5), (whole(11, 2, 5),), {}),
    "layer norm": lambda: (nn.LayerNorm(7), (real(2, 7),), {}),
    "layer norm of two axes": lambda: (nn.LayerNorm((5, 7), 1e-3, elementwise_affine=False), (real(2, 5, 7),), {}),
    "rms norm": lambda: (nn.RMSNorm(7), (real(2, 7),), {}),
    "batch norm": lambda: (nn.BatchNorm1d(3), (real(4, 3, 5),), {}),
    "batch norm in training": lambda: (nn.BatchNorm2d(3).train(), (real(4, 3, 5, 2),), {}),
    "batch norm without weights": lambda: (nn.BatchNorm3d(3, affine=False), (real(4, 3, 5, 2, 3),), {}),
    "conv1d same": lambda: (nn.Conv1d(3, 5, 3, padding="same"), (real(2, 3, 8),), {}),
    "conv2d groups": lambda: (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=1, groups=2), (real(2, 4, 8, 7),), {}),
    "conv3d": lambda: (nn.Conv3d(2, 3, 2), (real(2, 2, 4, 5, 3),), {}),
    "transposed": lambda: (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (real(2, 4, 3, 5),), {}),
    "max pool": lambda: (nn.MaxPool2d(3, 2), (real(2, 3, 8, 7),), {}),
    "max pool with places": lambda: (nn.MaxPool2d(3, 2, return_indices=True), (real(2, 3, 8, 7),), {}),
    "average pool": lambda: (nn.AvgPool2d(3, 2, padding=1), (real(2, 3, 8, 7),), {}),
    "average pool of one axis": lambda: (nn.AvgPool1d(3, 2), (real(2, 3, 8),), {}),
    "unfold": lambda: (nn.Unfold(3, padding=1), (real(2, 3, 4, 5),), {}),
    "bilinear": lambda: (nn.Upsample(scale_factor=2, mode="bilinear"), (real(2, 3, 4, 5),), {}),
    "bicubic": lambda: (nn.Upsample(size=(7, 3), mode="bicubic", align_corners=True), (real(2, 3, 4, 5),), {}),
    "gelu": lambda: (nn.GELU(), (real(3, 5),), {}),
    "gelu tanh": lambda: (nn.GELU("tanh"), (real(3, 5),), {}),
    "relu": lambda: (nn.ReLU(), (real(3, 5),), {}),
    "silu": lambda: (nn.SiLU(), (real(3, 5),), {}),
    "sigmoid": lambda: (nn.Sigmoid(), (real(3, 5),), {}),
    "tanh": lambda: (nn.Tanh(), (real(3, 5),), {}),
    "softmax": lambda: (nn.Softmax(dim=1), (real(3, 5),), {}),
    "attention": lambda: (
        nn.MultiheadAttention(12, 3, kdim=7, vdim=9, batch_first=True),
        (real(2, 4, 12), real(2, 5, 7), real(2, 5, 9)),
        {},
    ),
    "attention to itself": lambda: (
        nn.MultiheadAttention(12, 3),
        (real(4, 2, 12),) * 3,
        {"average_attn_weights": False},
    ),
    "attention with bias": lambda: (
        nn.MultiheadAttention(12, 3, add_bias_kv=True),
        (real(4, 2, 12), real(5, 2, 12), real(5, 2, 12)),
        {"need_weights": False, "key_padding_mask": torch.rand(2, 5) < 0.3},
    ),
    "gru cell": lambda: (nn.GRUCell(5, 7), (real(3, 5), real(3, 7)), {}),
    "cross entropy": lambda: (nn.CrossEntropyLoss(torch.rand(5), label_smoothing=0.1), (real(4, 5), whole(5, 4)), {}),
    "binary cross entropy": lambda: (nn.BCEWithLogitsLoss(pos_weight=torch.rand(5)), (real(4, 5), real(4, 5)), {}),
    "squared error": lambda: (nn.MSELoss(), (real(4, 5), real(4, 5)), {}),
    "smooth error": lambda: (nn.SmoothL1Loss(beta=0.5), (real(4, 5), real(4, 5)), {}),
    "absolute error": lambda: (nn.L1Loss(reduction="sum"), (real(4, 5), real(4, 5)), {}),
}


@pytest.mark.parametrize("name", MODULES)
def test_pytorch_own_modules_pass(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    module, args, kwargs = MODULES[name]()
    module = module.double()
    module.train("training" in name)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    result = recorded(module, tmp_path / "case.npz", *args, **kwargs)
    assert_exact(result)
    assert result.notes == []


def small(dtype: Any) -> tuple[Any, Any]:
    """A Perceiver that is kind to half precision: one layer, norms near 1."""
    perceiver = pytest.importorskip("perceiver_pytorch")
    torch.manual_seed(0)
    module = perceiver.Perceiver(
        num_freq_bands=2,
        depth=1,
        max_freq=4.0,
        input_channels=3,
        input_axis=1,
        num_latents=5,
        latent_dim=16,
        cross_heads=1,
        latent_heads=2,
        cross_dim_head=8,
        latent_dim_head=8,
        num_classes=7,
    )
    return module.to(dtype).eval(), torch.randn(2, 11, 3).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_low_precision(tmp_path: Path, dtype: str) -> None:
    module, x = small(getattr(torch, dtype))
    result = recorded(module, tmp_path / "case.npz", x)
    case = read_case(tmp_path / "case.npz")
    stored = "float32" if dtype == "bfloat16" else dtype
    assert {array.dtype.name for array in (case.outputs | case.params | case.grad_params).values()} == {stored}
    assert case.meta["dtype"] == dtype
    assert result.status == "pass", result.worst
    assert result.error("output") > 1e-8  # and not computed in more


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(tmp_path: Path, dtype: Any) -> None:
    module, x = small(torch.float32)
    with torch.autocast("cpu", dtype):
        result = recorded(module, tmp_path / "case.npz", x)
    meta = read_case(tmp_path / "case.npz").meta
    assert meta["dtype"] == str(dtype).removeprefix("torch.")
    assert "as under autocast" in meta["notes"]
    assert result.status == "pass", result.worst


def test_layouts_in_memory(tmp_path: Path) -> None:
    module = nn.Linear(3, 5).double()
    module.weight = nn.Parameter(torch.randn(3, 5, dtype=torch.float64).T)
    x = torch.randn(3, 4, 2, dtype=torch.float64).permute(2, 1, 0)[:, ::2]
    assert not x.is_contiguous()
    assert_exact(recorded(module, tmp_path / "case.npz", x.requires_grad_()))
    np.testing.assert_array_equal(read_case(tmp_path / "case.npz").inputs["input"], x.detach().numpy())


@dataclass
class Answer:
    value: Any
    parts: Any


class Own(nn.Module):
    """Under names of its own, with a part called several times and every kind of container."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Sequential(nn.Linear(6, 6), nn.GELU())
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)
        self.register_buffer("table", torch.arange(6.0), persistent=False)
        self.tied = self.step[0]

    def forward(self, x: Any, masks: Any = None, *rest: Any, mode: str = "a", **more: Any) -> Any:
        for _ in range(3):
            x = torch.utils.checkpoint.checkpoint(self.step, x + self.table, use_reentrant=False)
        out, _ = self.attend(x, x, x, key_padding_mask=masks["keys"])
        return {"answer": Answer(out, (x, [out + rest[0]])), "none": None}


def test_a_port_of_ones_own(tmp_path: Path) -> None:
    """Called several times under checkpointing, with gradients of the loss of two outputs."""
    module = Own().double()
    x, keys = real(2, 4, 6), torch.zeros(2, 4, dtype=torch.bool)
    with pr.record(module, tmp_path / "case.npz"):
        made = module(x, {"keys": keys, "kind": "b"}, torch.ones(6, dtype=torch.float64), mode="c", extra=3)
        assert isinstance(made["answer"], Answer)
        (made["answer"].value.sum() + 2 * made["answer"].parts[0].sum() + x.sum()).backward()
    case = read_case(tmp_path / "case.npz")
    assert (case.meta["peer"], case.meta["class"].rpartition(".")[2]) == ("unknown", "Own")
    assert case.meta["call"] == {"masks.kind": "b", "mode": "c", "extra": 3}
    assert sorted(case.inputs) == ["masks.keys", "rest.0", "x"]
    assert sorted(case.outputs) == ["answer.parts.0", "answer.parts.1.0", "answer.value"]
    assert {name for name in case.trace if name.startswith("step.0")} == {f"step.0@{i}" for i in range(3)}
    assert case.meta["tied"] == {"tied.weight": "step.0.weight", "tied.bias": "step.0.bias"}
    assert "table" in case.state
    assert set(case.cotangents) == {"answer.value", "answer.parts.0"}
    np.testing.assert_array_equal(case.cotangents["answer.parts.0"], np.full((2, 4, 6), 2.0))
    again, copy = Own().double(), x.detach().clone().requires_grad_()
    again.load_state_dict(module.state_dict())
    made = again(copy, {"keys": keys}, torch.ones(6, dtype=torch.float64))["answer"]
    (made.value.sum() + 2 * made.parts[0].sum()).backward()
    np.testing.assert_allclose(case.grad_inputs["x"], copy.grad.numpy(), rtol=1e-12)
    for name, parameter in again.named_parameters():
        np.testing.assert_allclose(case.grad_params[name], parameter.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_hooks_change_nothing_and_are_gone(tmp_path: Path) -> None:
    module, x = small(torch.float64)
    expected = module(x)
    expected.sum().backward()
    gradients = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    with pr.record(module, tmp_path / "case.npz"):
        out = module(x)
        out.sum().backward()
    assert torch.equal(out, expected)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter.grad, gradients[name])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert not any(p._backward_hooks for p in module.parameters())


def test_a_compiled_or_scripted_module_is_refused(tmp_path: Path) -> None:
    module = nn.Linear(2, 3)
    for wrapped in (torch.compile(module), torch.jit.script(module), nn.DataParallel(module)):
        with pytest.raises(pr.InputError, match="record"):
            pr.record(wrapped, tmp_path / "case.npz")
    module.compile()
    with pytest.raises(pr.InputError, match="compile"):
        pr.record(module, tmp_path / "case.npz")


def test_what_has_no_plain_numbers_is_refused(tmp_path: Path) -> None:
    class Identity(nn.Module):
        def forward(self, x: Any) -> Any:
            return x

    for value in (
        torch.zeros(2, dtype=torch.complex64),
        torch.eye(2).to_sparse(),
        torch.zeros(2, device="meta"),
        torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
    ):
        module = Identity()
        with pytest.raises(pr.InputError, match="input/x") as raised, pr.record(module, tmp_path / "case.npz"):
            module(value)
        assert len(str(raised.value)) < 200
        assert list(tmp_path.iterdir()) == []


def test_memory(tmp_path: Path) -> None:
    """60 values of 4 MB, recorded in a process whose peak hardly grows."""
    import resource

    class Step(nn.Module):
        def forward(self, x: Any) -> Any:
            return x + 1

    module, x = nn.Sequential(*[Step() for _ in range(60)]), torch.zeros(1 << 20)
    with torch.no_grad():
        module(x)
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pr.record(module, tmp_path / "case.npz"):
            module(x)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert (tmp_path / "case.npz").stat().st_size > 240 << 20
    assert grown < 40, f"{grown} MB"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path: Path) -> None:
    module, x = small(torch.float64)
    assert_exact(recorded(module.cuda(), tmp_path / "case.npz", x.detach().cuda().requires_grad_()))
