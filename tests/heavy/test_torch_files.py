"""Files that PyTorch itself writes give what PyTorch itself loads; transformers loads what `convert` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import CONFIG, invoke, weights
from heavy.peer import torch, transformers

import perceiver_ref as pr
from perceiver_ref.weights.checkpoints import read_checkpoint, read_weights
from perceiver_ref.weights.formats.fit import same_bits
from perceiver_ref.weights.formats.npz import write_npz

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
UNSIGNED = ["uint16", "uint32", "uint64"]  # which the older format cannot hold


def numpy(tensor: Any) -> np.ndarray:
    """bfloat16 as float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def assert_same(found: dict[str, np.ndarray], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    assert not [name for name, tensor in expected.items() if not same_bits(found[name], numpy(tensor))]


def views(base: Any) -> dict[str, Any]:
    return {
        "whole": base,
        "transposed": base.t(),
        "part": base[1:3, 2:5],
        "steps": base[::2, 1::3],
        "column": base[:, 3],
        "expanded": base[:1].expand(4, 6),
        "scalar": base[2, 2],
        "empty": base[:0],
        "one": base.clone().reshape(1, 24, 1),
        "channels_last": base.clone().reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    }


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("dtype", DTYPES + UNSIGNED)
def test_every_dtype_and_view(tmp_path: Path, dtype: str, old: bool) -> None:
    if old and dtype in UNSIGNED:
        pytest.skip("PyTorch does not write it")
    state = views((torch.arange(24).reshape(4, 6) - (0 if dtype[0] == "u" else 7)).to(getattr(torch, dtype)))
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    assert_same(read_weights(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt"))


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older"])
def test_modules_with_shared_weights_buffers_and_optimizers(tmp_path: Path, old: bool) -> None:
    model = torch.nn.Sequential(
        torch.nn.LSTM(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    )
    model[3].weight = model[2].weight
    optimizer = torch.optim.Adam(model.parameters())
    model[2](torch.ones(1, 4)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "epoch": 1,
        "device": torch.device("cuda:0"),
        "dtype": torch.bfloat16,
        "size": model[2].weight.shape,
        "numpy": [np.arange(3), np.float64(2.5)],
    }
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=not old)
    found = read_weights(tmp_path / "x.ckpt")
    assert_same(found, model.state_dict())
    assert found["2.weight"] is found["3.weight"]


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older"])
def test_parameters_with_attributes(tmp_path: Path, old: bool) -> None:
    marked = torch.nn.Parameter(torch.ones(2))
    marked.note = "kept"
    state = {"marked": marked, "parameter": torch.nn.Parameter(torch.ones(3)), "buffer": torch.nn.Buffer(torch.ones(1))}
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    assert_same(read_weights(tmp_path / "x.pt"), state)


def four_bits() -> Any:
    return torch.quantize_per_channel(torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.quint4x2)


@pytest.mark.parametrize(
    "kind", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]
)
def test_every_number_of_float8(tmp_path: Path, kind: str) -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(getattr(torch, kind))
    torch.save({"x": numbers.reshape(16, 16).t()}, tmp_path / "x.pt")
    found, expected = read_weights(tmp_path / "x.pt")["x"], numbers.float().reshape(16, 16).t().numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    numbers = ~np.isnan(found)
    np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(expected[numbers]))


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("dtype", ["quint8", "qint8", "qint32"])
def test_quantized_numbers(tmp_path: Path, dtype: str, old: bool) -> None:
    kind, numbers = getattr(torch, dtype), torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    zeros = torch.tensor([0, 3, 1, 2])
    state = {
        "whole": torch.quantize_per_tensor(numbers, 0.013, 5, kind),
        "view": torch.quantize_per_tensor(numbers, 0.013, 5, kind)[1].t(),
    }
    state |= {
        f"axis {axis}": torch.quantize_per_channel(numbers, torch.rand(n) + 0.01, zeros.repeat(2)[:n], axis, kind)
        for axis, n in enumerate(numbers.shape)
    }
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    assert_same(read_weights(tmp_path / "x.pt"), {name: tensor.dequantize() for name, tensor in state.items()})


REFUSED = {
    "a module": (lambda: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "complex numbers": (lambda: {"x": torch.ones(2, dtype=torch.complex64)}, "complex64 numbers, which no parameter"),
    "quantized to 4 bits": (lambda: {"x": four_bits()}, "quint4x2 numbers, which no parameter"),
    "sparse": (lambda: {"x": torch.ones(2).to_sparse()}, "_rebuild_sparse_tensor"),
    "conjugated": (lambda: {"x": torch.ones(2, dtype=torch.complex64).conj()}, "complex64 numbers, which no parameter"),
    "without data": (lambda: {"x": torch.ones(2, device="meta")}, "_rebuild_meta_tensor_no_storage"),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("what", REFUSED)
def test_other_things_are_refused(tmp_path: Path, what: str, old: bool) -> None:
    make, text = REFUSED[what]
    torch.save(make(), tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(pr.InputError, match=text):
        read_weights(tmp_path / "x.pt")


def test_a_program_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(pr.InputError, match="is a TorchScript program"):
        read_weights(tmp_path / "x.pt")


def model() -> Any:
    config = transformers.PerceiverConfig(**{k: v for k, v in CONFIG.items() if k != "architectures"})
    made = transformers.PerceiverForMaskedLM(config)
    with torch.no_grad():
        for p in made.parameters():
            p.normal_()
    return made


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_transformers_directories(tmp_path: Path, dtype: str) -> None:
    made = model().to(getattr(torch, dtype))
    made.save_pretrained(tmp_path / "whole")
    made.save_pretrained(tmp_path / "shards", max_shard_size="2KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    expected = {name: numpy(tensor) for name, tensor in made.state_dict().items()}
    for folder in ("whole", "shards"):
        checkpoint = read_checkpoint("hf", tmp_path / folder)
        assert sorted(checkpoint.arrays) == sorted(expected)
        assert all(same_bits(array, expected[name]) for name, array in checkpoint.arrays.items())


def test_transformers_reads_what_convert_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = weights(CONFIG, np.float32)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_npz(tmp_path / "weights.npz", arrays)
    own, back = tmp_path / "own.npz", tmp_path / "model.safetensors"
    assert invoke(capsys, "convert", "--peer", "hf", "--weights", tmp_path / "weights.npz", "--output", own).code == 0
    assert invoke(capsys, "convert", "--weights", own, "--output", back, "--to-peer").code == 0
    loaded, report = transformers.PerceiverForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    state = loaded.state_dict()
    assert all(same_bits(numpy(state[name]), array) for name, array in arrays.items())
