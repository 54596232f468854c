"""Deviations of positions and precision planted in lucidrains' Perceiver."""

from __future__ import annotations

from mutants.deviations.row import Deviation, changed, lowered, scoped
from mutants.source import Edit

PEERS = ("lucidrains-perceiver",)
PERCEIVER = "perceiver_(1|2|t)"


def _positions() -> list[Deviation]:
    rows: list[Deviation] = []
    both, last = "x = cat([x.sin(), x.cos()], dim = -1)", "x = cat((x, orig_x), dim = -1)"
    flat = "enc_pos = rearrange(enc_pos, '... n d -> ... (n d)')"
    whole = (
        "enc_pos = cat((enc_pos[..., -1], enc_pos[..., :K].flatten(-2), enc_pos[..., K : 2 * K].flatten(-2)), dim=-1)"
    ).replace("K", "self.num_freq_bands")
    ending = whole.replace("(enc_pos[..., -1], ", "(").replace("), dim=-1)", ", enc_pos[..., -1]), dim=-1)")
    for variant, edits in {
        "[pos, sin, cos] on each axis in place of [sin, cos, pos]": (Edit(last, "x = cat((orig_x, x), dim=-1)"),),
        "[cos, sin, pos] on each axis in place of [sin, cos, pos]": (
            Edit(both, "x = cat([x.cos(), x.sin()], dim=-1)"),
        ),
        "sines and cosines interleaved": (Edit(both, "x = stack([x.sin(), x.cos()], dim=-1).flatten(-2)"),),
        "[pos, sin, cos] over all axes": (Edit(flat, whole),),
        "[sin, cos, pos] over all axes": (Edit(flat, ending),),
        "features outermost, axes innermost": (Edit(flat, "enc_pos = rearrange(enc_pos, '... n d -> ... (d n)')"),),
        "positions before the data": (
            Edit("data = cat((data, enc_pos), dim = -1)", "data = cat((enc_pos, data), dim=-1)"),
        ),
    }.items():
        rows += scoped("fourier-order", variant, PEERS, *edits, only=PERCEIVER)
    scales = "scales = torch.linspace(1., max_freq / 2, num_bands, device = device, dtype = dtype)"
    for variant, form in {
        "frequencies spaced logarithmically": (
            "torch.logspace(0, log(max_freq / 2) / log(2), num_bands, 2.0, dtype=dtype)"
        ),
        "frequencies in octaves": "2.0 ** torch.arange(num_bands, dtype=dtype)",
        "frequencies are the integers from 1": "1.0 + torch.arange(num_bands, dtype=dtype)",
        "largest frequency is max_freq, not half of it": "torch.linspace(1.0, max_freq, num_bands, dtype=dtype)",
        "largest frequency left out": "torch.linspace(1.0, max_freq / 2, num_bands + 1, dtype=dtype)[:-1]",
        "smallest frequency left out": "torch.linspace(1.0, max_freq / 2, num_bands + 1, dtype=dtype)[1:]",
        "frequencies from 0": "torch.linspace(0.0, max_freq / 2, num_bands, dtype=dtype)",
        "frequencies in descending order": "torch.linspace(max_freq / 2, 1.0, num_bands, dtype=dtype)",
    }.items():
        also = ("fourier-order",) if "descending" in variant else ()
        rows += scoped(
            "fourier-frequencies", variant, PEERS, Edit(scales, f"scales = {form}"), only=PERCEIVER, also=also
        )
    for variant, form in {"no factor pi": "1", "2 pi in place of pi": "2 * pi"}.items():
        rows += scoped(
            "fourier-frequencies",
            variant,
            PEERS,
            Edit("x = x * scales * pi", f"x = x * scales * {form}"),
            only=PERCEIVER,
        )
    own = Edit(
        "enc_pos = fourier_encode(pos, self.max_freq, self.num_freq_bands)",
        "enc_pos = stack([fourier_encode(pos[..., i], n, self.num_freq_bands) for i, n in enumerate(axis)], dim=-2)",
    )
    rows += scoped("fourier-frequencies", "each axis' own size in place of max_freq", PEERS, own, only=PERCEIVER)
    grid = "axis_pos = [torch.linspace(-1., 1., steps = size, device = device, dtype = dtype) for size in axis]"
    ramp = "torch.arange(size, dtype=dtype)"
    for variant, form in {
        "grid without the end point +1": f"-1 + 2 * {ramp} / size",
        "grid of pixel centres": f"-1 + (2 * {ramp} + 1) / size",
        "grid from 0 to 1": f"{ramp} / max(size - 1, 1)",
        "grid from 0 to 1 without the end point": f"{ramp} / size",
        "grid of pixel centres from 0 to 1": f"({ramp} + 0.5) / size",
        "grid from -0.5 to 0.5": f"{ramp} / max(size - 1, 1) - 0.5",
        "grid of whole numbers": ramp,
        "grid from +1 to -1": f"1 - 2 * {ramp} / max(size - 1, 1)",
        "grid in proportion to the larger axis": f"-1 + 2 * {ramp} / (max(axis) - 1)",
    }.items():
        also = ("position-axes",) if "+1 to" in variant else ()
        edit = Edit(grid, f"axis_pos = [{form} for size in axis]")
        rows += scoped("position-grid", variant, PEERS, edit, only=PERCEIVER, also=also)
    mesh = "pos = stack(torch.meshgrid(*axis_pos, indexing = 'ij'), dim = -1)"
    for variant, form in {
        "axes stacked in reverse (x before y)": "stack(torch.meshgrid(*axis_pos, indexing='ij')[::-1], dim=-1)",
        "meshgrid indexing 'xy'": "stack(torch.meshgrid(*axis_pos, indexing='xy'), dim=-1).reshape(*axis, -1)",
        "positions flattened column by column": (
            "stack(torch.meshgrid(*axis_pos, indexing='ij'), dim=-1).transpose(0, 1).reshape(*axis, -1)"
        ),
    }.items():
        rows += scoped("position-axes", variant, PEERS, Edit(mesh, f"pos = {form}"), only="perceiver_(2|t)")
    return rows


def _precision() -> list[Deviation]:
    rows: list[Deviation] = []
    softmax = "attn = sim.softmax(dim = -1)"
    for dtype in ("float16", "bfloat16"):
        low = Edit(softmax, f"attn = sim.to(torch.{dtype}).softmax(dim=-1).to(sim.dtype)")
        rows += scoped("dtype", f"softmax in {dtype}", PEERS, low)
        parts = {
            "layer norms": r"norm(_context)?$",
            "MLPs": r"net$",
            "attention": r"(attn|self_attns\.\d+\.0)\.fn$",
            "key and value projections": r"to_kv$",
            "query projections": r"to_q$",
            "self-attention": r"self_attns\.\d+\.0$",
            "cross-attention": r"cross_attn$",
            "logits": r"to_logits$",
        }
        rows += changed(
            "dtype", PEERS, {f"{name} in {dtype}": lowered(pattern, dtype) for name, pattern in parts.items()}
        )
        low = Edit(
            "enc_pos = fourier_encode(pos, self.max_freq, self.num_freq_bands)",
            f"enc_pos = fourier_encode(pos.to(torch.{dtype}), self.max_freq, self.num_freq_bands).to(dtype)",
        )
        rows += scoped("dtype", f"Fourier features in {dtype}", PEERS, low, only=PERCEIVER)
    return rows


ROWS: tuple[Deviation, ...] = (*_positions(), *_precision())
