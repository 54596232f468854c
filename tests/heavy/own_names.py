"""Perceiver encoders as people write them: classes and parameters of their own names, recorded by hooks."""

from __future__ import annotations

from typing import Any

import numpy as np

from perceiver_ref.porting.cases import Case

LATENTS, WIDTH, INPUTS, LAYERS, HEADS = 5, 12, 7, 2, 3
CONFIG: dict[str, Any] = {
    "type": "Encoder",
    "inputs": INPUTS,
    "latents": LATENTS,
    "channels": WIDTH,
    "layers": LAYERS,
    "cross_heads": 1,
    "self_heads": HEADS,
    "attend_in": "q",
    "self_widening": 2,
}


def torch_ports(torch: Any) -> dict[str, Any]:
    """Name -> a function that makes (module, input)."""
    nn, F = torch.nn, torch.nn.functional

    def attend(q: Any, k: Any, v: Any) -> Any:
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v

    class Feed(nn.Module):
        def __init__(self, wide: int) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(WIDTH, wide * WIDTH), nn.Linear(wide * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            return self.down(F.gelu(self.up(x), approximate="tanh"))

    class Einsum(nn.Module):
        """Heads as axes of parameters, and no linear layers in attention."""

        def __init__(self, inner: int, heads: int) -> None:
            super().__init__()
            d = WIDTH // heads
            for name, width in (("A", WIDTH), ("B", inner), ("C", inner)):
                setattr(self, name, nn.Parameter(torch.randn(heads, width, d) * 0.3))
                setattr(self, f"{name}0", nn.Parameter(torch.randn(heads, d) * 0.1))
            self.Z, self.z = nn.Parameter(torch.randn(heads, d, WIDTH) * 0.3), nn.Parameter(torch.randn(WIDTH))

        def forward(self, x: Any, y: Any) -> Any:
            q, k, v = (
                torch.einsum("bnc,hcd->bhnd", source, getattr(self, n)) + getattr(self, f"{n}0")[:, None]
                for n, source in (("A", x), ("B", y), ("C", y))
            )
            return torch.einsum("bhnd,hdc->bnc", attend(q, k, v), self.Z) + self.z

    class EinsumBlock(nn.Module):
        def __init__(self, inner: int, heads: int, wide: int, cross: bool) -> None:
            super().__init__()
            self.first = nn.LayerNorm(WIDTH)
            self.other = nn.LayerNorm(inner) if cross else None
            self.mix, self.second, self.feed = Einsum(inner, heads), nn.LayerNorm(WIDTH), Feed(wide)

        def forward(self, x: Any, y: Any = None) -> Any:
            a = self.first(x)
            x = x + self.mix(a, a if self.other is None else self.other(y))
            return x + self.feed(self.second(x))

    class Separate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.z0 = nn.Parameter(torch.randn(LATENTS, WIDTH))
            self.read = EinsumBlock(INPUTS, 1, 1, True)
            self.think = nn.ModuleList(EinsumBlock(WIDTH, HEADS, 2, False) for _ in range(LAYERS))

        def forward(self, x: Any) -> Any:
            z = self.read(self.z0.expand(len(x), -1, -1), x)
            for block in self.think:
                z = block(z)
            return z

    class Fused(nn.Module):
        """One projection for queries, keys and values, interleaved head by head."""

        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.o = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            b, n, _ = x.shape
            q, k, v = self.qkv(x).reshape(b, n, HEADS, 3, -1).permute(3, 0, 2, 1, 4)
            return self.o(attend(q, k, v).transpose(1, 2).reshape(b, n, -1))

    class FusedCross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vk, self.ask, self.o = nn.Linear(INPUTS, 2 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Any, y: Any) -> Any:
            v, k = self.vk(y).chunk(2, -1)
            return self.o(attend(self.ask(x), k, v))

    class FusedModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bank = nn.Parameter(torch.randn(1, LATENTS, WIDTH))
            self.n0, self.n1, self.n2 = nn.LayerNorm(INPUTS), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.cross, self.cross_mlp = FusedCross(), Feed(1)
            for i in range(LAYERS):
                self.add_module(f"na{i}", nn.LayerNorm(WIDTH))
                self.add_module(f"nb{i}", nn.LayerNorm(WIDTH))
                self.add_module(f"at{i}", Fused())
                self.add_module(f"ff{i}", Feed(2))

        def forward(self, x: Any) -> Any:
            z = self.bank.repeat(len(x), 1, 1)
            z = z + self.cross(self.n1(z), self.n0(x))
            z = z + self.cross_mlp(self.n2(z))
            for i in range(LAYERS):
                z = z + getattr(self, f"at{i}")(getattr(self, f"na{i}")(z))
                z = z + getattr(self, f"ff{i}")(getattr(self, f"nb{i}")(z))
            return z

    class Ready(nn.Module):
        """nn.MultiheadAttention throughout."""

        def __init__(self) -> None:
            super().__init__()
            self.slots = nn.Parameter(torch.randn(LATENTS, WIDTH))
            self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 + 2 * LAYERS))
            self.data_norm = nn.LayerNorm(INPUTS)
            self.look = nn.MultiheadAttention(WIDTH, 1, kdim=INPUTS, vdim=INPUTS, batch_first=True)
            self.selves = nn.ModuleList(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(LAYERS))
            self.mlps = nn.ModuleList([Feed(1), *(Feed(2) for _ in range(LAYERS))])

        def forward(self, x: Any) -> Any:
            z, y = self.slots.expand(len(x), -1, -1), self.data_norm(x)
            z = z + self.look(self.norms[0](z), y, y, need_weights=False)[0]
            z = z + self.mlps[0](self.norms[1](z))
            for i, attention in enumerate(self.selves):
                a = self.norms[2 + 2 * i](z)
                z = z + attention(a, a, a, need_weights=False)[0]
                z = z + self.mlps[i + 1](self.norms[3 + 2 * i](z))
            return z

    class ChannelNorm(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.g, self.h = nn.Parameter(torch.ones(1, width, 1)), nn.Parameter(torch.zeros(1, width, 1))

        def forward(self, x: Any) -> Any:
            centred = x - x.mean(1, keepdim=True)
            return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * self.g + self.h

    class ConvBlock(nn.Module):
        """Channels first, convolutions of kernel 1 for linear maps."""

        def __init__(self, inner: int, heads: int, wide: int, cross: bool) -> None:
            super().__init__()
            self.heads = heads
            self.p, self.s = ChannelNorm(WIDTH), ChannelNorm(WIDTH)
            self.r = ChannelNorm(inner) if cross else None
            self.cq, self.ck, self.cv = (nn.Conv1d(n, WIDTH, 1) for n in (WIDTH, inner, inner))
            self.co = nn.Conv1d(WIDTH, WIDTH, 1)
            self.c1, self.c2 = nn.Conv1d(WIDTH, wide * WIDTH, 1), nn.Conv1d(wide * WIDTH, WIDTH, 1)

        def forward(self, x: Any, y: Any = None) -> Any:
            a = self.p(x)
            c = a if self.r is None else self.r(y)
            q, k, v = (
                m(s).unflatten(1, (self.heads, -1)).transpose(2, 3)
                for m, s in ((self.cq, a), (self.ck, c), (self.cv, c))
            )
            x = x + self.co(attend(q, k, v).transpose(2, 3).flatten(1, 2))
            return x + self.c2(F.gelu(self.c1(self.s(x)), approximate="tanh"))

    class Convs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lat = nn.Parameter(torch.randn(1, WIDTH, LATENTS))
            self.enter = ConvBlock(INPUTS, 1, 1, True)
            self.rest = nn.ModuleList(ConvBlock(WIDTH, HEADS, 2, False) for _ in range(LAYERS))

        def forward(self, x: Any) -> Any:  # (B, C, M)
            z = self.enter(self.lat.expand(len(x), -1, -1), x)
            for block in self.rest:
                z = block(z)
            return z

    return {
        "separate": lambda: (Separate(), torch.randn(2, 11, INPUTS)),
        "fused": lambda: (FusedModel(), torch.randn(2, 11, INPUTS)),
        "ready": lambda: (Ready(), torch.randn(2, 11, INPUTS)),
        "convs": lambda: (Convs(), torch.randn(2, INPUTS, 11)),
    }


def recorded(torch: Any, module: Any, x: Any, *, traces: bool = True, gradients: bool = True) -> Case:
    """The case of a forward and a backward pass of a PyTorch module of unknown class, taken by hooks."""
    trace: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        def hook(_: Any, inputs: Any, out: Any) -> None:
            value = out[0] if isinstance(out, tuple) else out
            trace[name] = value.detach().numpy().copy()

        return hook

    handles = [m.register_forward_hook(keep(name)) for name, m in module.named_modules() if name and traces]
    x = x.clone().requires_grad_()
    out = module(x)
    cotangent = torch.randn(out.shape, dtype=out.dtype)
    (out * cotangent).sum().backward()
    for handle in handles:
        handle.remove()
    params = {name: p.detach().numpy().copy() for name, p in module.named_parameters()}
    meta = {"peer": "unknown", "class": f"mine.{type(module).__name__}", "config": {}, "dtype": str(out.dtype)[6:]}
    case = Case({"call": {}, "tied": {}, "points": {}, "tolerance": {}, "compare_gradients": True, **meta})
    case.params, case.inputs, case.outputs = params, {"x": x.detach().numpy()}, {"out": out.detach().numpy()}
    case.trace = trace
    if gradients:
        case.cotangents = {"out": cotangent.numpy()}
        case.grad_params = {name: p.grad.numpy().copy() for name, p in module.named_parameters()}
        case.grad_inputs = {"x": x.grad.numpy().copy()}
    return case


def varied(torch: Any, module: Any) -> Any:
    """The module in float64 with every parameter a little off its initial value, so that none is all 0 or 1."""
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p += 0.2 * torch.randn_like(p)
    return module
