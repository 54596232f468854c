"""Deviations of positions and precision planted in the stand-in for DeepMind's Perceiver."""

from __future__ import annotations

from mutants.deviations.frequencies import forms
from mutants.deviations.row import Deviation, changed, lowered, scoped
from mutants.source import Edit

DM = ("deepmind",)
FOURIER = "pixels|input_mask|flow"


def _positions() -> list[Deviation]:
    rows: list[Deviation] = []
    joined = "features = torch.cat([torch.sin(math.pi * features), torch.cos(math.pi * features)], dim=-1)"
    concat = "features = torch.cat([pos, features], dim=-1)"
    last = Edit(concat, "features = torch.cat([features, pos], dim=-1)")
    sines = "s, c = torch.sin(math.pi * features), torch.cos(math.pi * features)\nd = pos.shape[-1]\n"
    cosines_first = Edit(joined, f"{sines}features = torch.cat([c, s], dim=-1)")
    interleaved = Edit(joined, f"{sines}features = torch.stack([s, c], dim=-1).flatten(1)")
    by_axis = Edit(
        joined, f"{sines}features = torch.cat([s.unflatten(1, (d, -1)), c.unflatten(1, (d, -1))], dim=-1).flatten(1)"
    )
    by_band = Edit(
        joined,
        f"{sines}s, c = (t.unflatten(1, (d, -1)).transpose(1, 2).flatten(1) for t in (s, c))\n"
        "features = torch.cat([s, c], dim=-1)",
    )
    lucid = "features = torch.cat([features.unflatten(1, (pos.shape[-1], -1)), pos[..., None]], dim=-1).flatten(1)"
    before = Edit(
        'return record("image_preprocessor/inputs", torch.cat([inputs, pos_enc], dim=-1))',
        'return record("image_preprocessor/inputs", torch.cat([pos_enc, inputs], dim=-1))',
    )
    for variant, edits in {
        "[sin, cos, pos] in place of [pos, sin, cos]": (last,),
        "[pos, cos, sin] in place of [pos, sin, cos]": (cosines_first,),
        "[cos, sin, pos] in place of [pos, sin, cos]": (cosines_first, last),
        "sines and cosines interleaved": (interleaved,),
        "sines and cosines axis by axis": (by_axis,),
        "axis by axis, [sin, cos, pos] for each": (by_axis, Edit(concat, lucid)),
        "frequencies outermost, axes innermost": (by_band,),
        "positions before the features of the input": (before,),
    }.items():
        rows += scoped("fourier-order", variant, DM, *edits, only=FOURIER)
    bands = "bands = [torch.linspace(1.0, res / 2, num_bands) for res in max_resolution]"
    for variant, form in forms("pos[:, axis]").items():
        edit = Edit(bands, f"bands = [{form} for axis, res in enumerate(max_resolution)]")
        also = ("fourier-order",) if "descending" in variant else ()
        rows += scoped("fourier-frequencies", variant, DM, edit, only=FOURIER, also=also)
    for variant, factor in {"no factor pi": "1.0", "2 pi in place of pi": "2 * math.pi"}.items():
        rows += scoped(
            "fourier-frequencies", variant, DM, Edit(joined, joined.replace("math.pi", factor)), only=FOURIER
        )
    grid = "axes.append(axis.to(torch.get_default_dtype()))"
    ramp = "torch.arange(n, dtype=torch.float64)"
    for variant, form in {
        "grid without the end point +1": f"-1 + 2 * {ramp} / n",
        "grid of pixel centres": f"-1 + (2 * {ramp} + 1) / n",
        "grid from 0 to 1": f"{ramp} / max(n - 1, 1)",
        "grid from 0 to 1 without the end point": f"{ramp} / n",
        "grid from -0.5 to 0.5": f"{ramp} / max(n - 1, 1) - 0.5",
        "grid of whole numbers": ramp,
        "grid in proportion to the larger axis": f"-1 + 2 * {ramp} / (max(index_dims) - 1)",
    }.items():
        rows += scoped("position-grid", variant, DM, Edit(grid, f"axes.append({form})"), only=FOURIER)
    mesh, stacked = 'grid = torch.meshgrid(*axes, indexing="ij")', "return torch.stack(grid, dim=-1)"
    for variant, edit in {
        "axes stacked in reverse (x before y)": Edit(stacked, "return torch.stack(grid[::-1], dim=-1)"),
        "meshgrid indexing 'xy'": Edit(mesh, mesh.replace('"ij"', '"xy"')),
        "positions flattened column by column": Edit(stacked, "return torch.stack(grid, dim=-1).transpose(0, 1)"),
    }.items():
        rows += scoped("position-axes", variant, DM, edit, only=FOURIER)
    for dtype in ("float16", "bfloat16"):
        low = Edit(stacked, f"return torch.stack(grid, dim=-1).to(torch.{dtype}).to(torch.float64)")
        rows += scoped("dtype", f"grid positions in {dtype}", DM, low, only=FOURIER)
        softmax = "weights = scores.softmax(dim=-1)"
        low = Edit(softmax, f"weights = scores.to(torch.{dtype}).softmax(dim=-1).to(scores.dtype)")
        rows += scoped("dtype", f"softmax in {dtype}", DM, low)
        parts = {
            "layer norms": r"norm$",
            "MLPs": r"\.mlp$",
            "attention": r"\.attention$",
            "positions": r"preprocessor\.positions$",
            "the decoder": r"decoding_cross_attend$",
            "the self-attention layers": r"self_attends\.\d+$",
        }
        rows += changed("dtype", DM, {f"{name} in {dtype}": lowered(pattern, dtype) for name, pattern in parts.items()})
    return rows


ROWS: tuple[Deviation, ...] = tuple(_positions())
