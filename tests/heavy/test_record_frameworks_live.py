"""Recording live Flax (Linen and NNX), Haiku and MLX modules: names, values and dtypes are the framework's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perceiver_ref as pr
from perceiver_ref.porting.cases import Case, read_case

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
X = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)


def recorded(path: Path, module: Any, call: Any, **options: Any) -> Case:
    with pr.record(module, path, **options):
        call()
    return read_case(path)


def test_linen(tmp_path: Path) -> None:
    jax, nn = pytest.importorskip("jax"), pytest.importorskip("flax.linen")

    class Block(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x: Any, scale: float = 1.0) -> Any:
            return nn.gelu(nn.Dense(self.width, name="inner")(x)) * scale

    class Net(nn.Module):
        width: int = 3
        kinds: tuple[str, ...] = ("a", "b")

        def setup(self) -> None:
            self.block = Block(self.width)
            self.attend = nn.MultiHeadDotProductAttention(num_heads=3)
            self.norm = nn.BatchNorm(use_running_average=True)

        def __call__(self, x: Any, mask: Any = None, *, scale: float = 2.0) -> Any:
            hidden = self.block(self.block(x, scale))
            return {"out": self.norm(self.attend(hidden, hidden, mask=mask)), "hidden": [hidden]}

        def encode(self, x: Any) -> Any:
            return self.block(x)

    net = Net()
    variables = net.init(jax.random.key(0), X)
    mask = np.random.default_rng(1).random((2, 1, 5, 5)) < 0.7
    out, kept = net.apply(variables, X, mask, scale=3.0, capture_intermediates=True, mutable=["intermediates"])
    case = recorded(tmp_path / "case.npz", net, lambda: net.apply(variables, X, mask, scale=3.0))
    assert case.meta["class"].endswith("Net")
    assert case.meta["config"] == {"width": 3, "kinds": ["a", "b"]}
    assert case.meta["call"] == {"scale": 3.0}
    np.testing.assert_array_equal(case.outputs["out"], out["out"])
    np.testing.assert_array_equal(case.outputs["hidden.0"], out["hidden"][0])
    np.testing.assert_array_equal(case.inputs["mask"], mask)
    kept = kept["intermediates"]
    for i in range(2):  # as Flax itself captures them
        np.testing.assert_array_equal(case.trace[f"block@{i}"], kept["block"]["__call__"][i])
        np.testing.assert_array_equal(case.trace[f"block.inner@{i}"], kept["block"]["inner"]["__call__"][i])
    np.testing.assert_array_equal(case.trace["attend.query"], kept["attend"]["query"]["__call__"][0])
    np.testing.assert_array_equal(case.params["block.inner.kernel"], variables["params"]["block"]["inner"]["kernel"])
    assert sorted(case.state) == ["batch_stats.norm.mean", "batch_stats.norm.var"]
    other = recorded(tmp_path / "case.npz", net, lambda: net.apply(variables, X, method="encode"))
    assert list(other.trace) == ["block.inner", "block"]
    halves = jax.tree.map(lambda a: a.astype(jax.numpy.bfloat16), variables)
    half = recorded(
        tmp_path / "case.npz", net, lambda: net.apply(halves, X.astype(jax.numpy.bfloat16)), points="block*"
    )
    assert half.meta["dtype"] == "bfloat16"
    assert half.outputs["out"].dtype == np.float32
    assert "attend.query" not in half.trace
    with pytest.raises(pr.InputError, match="has no values while its function is traced: call it without jit"):
        recorded(tmp_path / "traced.npz", net, lambda: jax.jit(net.apply)(variables, X))
    with pytest.raises(pr.InputError, match="called never"):  # initialising is no call
        recorded(tmp_path / "traced.npz", net, lambda: net.init(jax.random.key(0), X))
    assert not (tmp_path / "traced.npz").exists()


def test_nnx(tmp_path: Path) -> None:
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)])
            self.drop, self.norm = nnx.Dropout(0.1, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return self.norm(self.drop(x, deterministic=True), use_running_average=True)

    net, before = Net(nnx.Rngs(0)), nnx.Linear.__call__
    case = recorded(tmp_path / "case.npz", net, lambda: net(X))
    assert nnx.Linear.__call__ is before
    assert list(case.trace) == ["layers.0", "layers.1", "drop", "norm"]
    assert (
        sorted(case.params)
        == [*("layers.0.bias", "layers.0.kernel", "layers.1.bias", "layers.1.kernel", "norm.bias", "norm.scale")]
        or sorted(case.params)[0] == "layers.0.bias"
    )
    assert sorted(case.state) == ["norm.mean", "norm.var"]
    np.testing.assert_array_equal(case.trace["layers.0"], net.layers[0](X))
    np.testing.assert_array_equal(case.outputs["out"], net(X))


def test_haiku(tmp_path: Path) -> None:
    jax, hk = pytest.importorskip("jax"), pytest.importorskip("haiku")

    class Net(hk.Module):
        def __call__(self, x: Any, *, scale: float = 1.0) -> Any:
            hidden = hk.nets.MLP([4, 3], name="mlp")(x) * scale
            return hidden, hidden + hk.get_state("shift", (3,), init=jax.numpy.ones)

    function = hk.transform_with_state(lambda x: Net(name="net")(x, scale=2.0))
    params, state = function.init(jax.random.key(0), X)
    case = recorded(tmp_path / "case.npz", function, lambda: function.apply(params, state, None, X))
    assert case.meta["class"].endswith("Net")
    assert case.meta["call"] == {"scale": 2.0}
    assert sorted(case.params) == sorted(f"{module}/{name}" for module, own in params.items() for name in own)
    assert sorted(case.state) == sorted(f"{module}/{name}" for module, own in state.items() for name in own)
    weight, bias = (params["net/mlp/~/linear_0"][name] for name in "wb")
    np.testing.assert_allclose(case.trace["net/mlp/~/linear_0"], X @ weight + bias, rtol=1e-5, atol=1e-6)
    (out, shifted), _ = function.apply(params, state, None, X)
    np.testing.assert_array_equal(case.outputs["out0"], out)
    np.testing.assert_array_equal(case.outputs["out1"], shifted)
    several = hk.transform(lambda x: hk.Sequential([hk.Linear(4), jax.nn.relu, hk.Linear(2)])(x))
    params = several.init(jax.random.key(0), X)
    case = recorded(tmp_path / "case.npz", several, lambda: several.apply(params, None, X))
    assert sorted(case.params) == ["linear/b", "linear/w", "linear_1/b", "linear_1/w"]


def test_mlx(tmp_path: Path) -> None:
    mx, nn = pytest.importorskip("mlx.core"), pytest.importorskip("mlx.nn")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(3, 4), nn.Linear(4, 3)]
            self.attend, self.norm, self.width = nn.MultiHeadAttention(3, 3), nn.LayerNorm(3), 3

        def __call__(self, x: Any, mask: Any = None) -> Any:
            for layer in self.layers:
                x = layer(x)
            return {"out": self.norm(self.attend(x, x, x, mask)), "hidden": x}

    net, x = Net(), mx.array(X)
    case = recorded(tmp_path / "case.npz", net, lambda: net(x))
    assert case.meta["config"] == {"width": 3}
    assert {"layers.0", "layers.1", "attend", "attend.query_proj", "norm"} <= set(case.trace)
    np.testing.assert_array_equal(case.params["layers.1.weight"], np.array(net.layers[1].weight))
    np.testing.assert_array_equal(case.trace["layers.0"], np.array(net.layers[0](x)))
    np.testing.assert_array_equal(case.outputs["out"], np.array(net(x)["out"]))
    net.set_dtype(mx.bfloat16)
    half = recorded(tmp_path / "case.npz", net, lambda: net(x.astype(mx.bfloat16)), first=2)
    assert half.meta["dtype"] == "bfloat16"
    np.testing.assert_array_equal(
        half.outputs["hidden"], np.array(net(x.astype(mx.bfloat16))["hidden"].astype(mx.float32))
    )
    assert list(half.trace) == ["layers.0", "layers.1"]
