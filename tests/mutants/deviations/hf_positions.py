"""Deviations of positions planted in transformers' Perceiver."""

from __future__ import annotations

from mutants.deviations.frequencies import forms
from mutants.deviations.row import Deviation, scoped
from mutants.source import Edit

HF = ("hf",)
FOURIER = "image_fourier|image_conv|flow|multimodal"


def _fourier() -> list[Deviation]:
    rows: list[Deviation] = []
    joined = """
        per_pos_features = torch.cat(
            [torch.sin(np.pi * per_pos_features), torch.cos(np.pi * per_pos_features)], dim=-1
        )
        """
    concat = "per_pos_features = torch.cat([pos, per_pos_features.expand(batch_size, -1, -1)], dim=-1)"
    last = Edit(concat, "per_pos_features = torch.cat([per_pos_features.expand(batch_size, -1, -1), pos], dim=-1)")
    sines = (
        "s, c = torch.sin(np.pi * per_pos_features), torch.cos(np.pi * per_pos_features)\n"
        "n, d = len(s), pos.shape[-1]\n"
    )
    cosines_first = Edit(joined, sines + "per_pos_features = torch.cat([c, s], dim=-1)")
    interleaved = Edit(joined, sines + "per_pos_features = torch.stack([s, c], dim=-1).flatten(1)")
    by_axis = Edit(
        joined, sines + "per_pos_features = torch.cat([s.view(n, d, -1), c.view(n, d, -1)], dim=-1).flatten(1)"
    )
    by_band = Edit(
        joined,
        sines + "s, c = (t.view(n, d, -1).transpose(1, 2).flatten(1) for t in (s, c))\n"
        "per_pos_features = torch.cat([s, c], dim=-1)",
    )
    lucid = Edit(
        concat,
        "t = per_pos_features.expand(batch_size, -1, -1).unflatten(-1, (pos.shape[-1], -1))\n"
        "per_pos_features = torch.cat([t, pos[..., None]], dim=-1).flatten(2)",
    )
    lucid_first = Edit(lucid.old, lucid.new.replace("[t, pos[..., None]]", "[pos[..., None], t]"))
    before = Edit(
        "inputs_with_pos = torch.cat([inputs, pos_enc], dim=-1)",
        "inputs_with_pos = torch.cat([pos_enc, inputs], dim=-1)",
    )
    for variant, edits in {
        "[sin, cos, pos] in place of [pos, sin, cos]": (last,),
        "[pos, cos, sin] in place of [pos, sin, cos]": (cosines_first,),
        "[cos, sin, pos] in place of [pos, sin, cos]": (cosines_first, last),
        "sines and cosines interleaved": (interleaved,),
        "sines and cosines interleaved, positions last": (interleaved, last),
        "sines and cosines axis by axis": (by_axis,),
        "axis by axis, [sin, cos, pos] for each": (by_axis, lucid),
        "axis by axis, [pos, sin, cos] for each": (by_axis, lucid_first),
        "frequencies outermost, axes innermost": (by_band,),
        "positions before the features of the input": (before,),
    }.items():
        rows += scoped("fourier-order", variant, HF, *edits, only=FOURIER)
    bands = (
        "[torch.linspace(start=min_freq, end=res / 2, steps=num_bands, device=pos.device) for res in max_resolution]"
    )
    for variant, form in forms("pos[0, :, axis]").items():
        edit = Edit(bands, f"[{form} for axis, res in enumerate(max_resolution)]")
        also = ("fourier-order",) if "descending" in variant else ()
        rows += scoped("fourier-frequencies", variant, HF, edit, only=FOURIER, also=also)
    for variant, factor in {
        "no factor pi": "1.0",
        "2 pi in place of pi": "2 * np.pi",
        "half of pi": "0.5 * np.pi",
    }.items():
        rows += scoped("fourier-frequencies", variant, HF, Edit(joined, joined.replace("np.pi", factor)), only=FOURIER)
    grid = """
        return torch.linspace(
            start=output_range[0], end=output_range[1], steps=n_xels_per_dim, dtype=torch.float64, device=device
        )
        """
    ramp = "torch.arange(n_xels_per_dim, dtype=torch.float64)"
    for variant, form in {
        "grid without the end point +1": f"-1 + 2 * {ramp} / n_xels_per_dim",
        "grid of pixel centres": f"-1 + (2 * {ramp} + 1) / n_xels_per_dim",
        "grid from 0 to 1": f"{ramp} / max(n_xels_per_dim - 1, 1)",
        "grid from 0 to 1 without the end point": f"{ramp} / n_xels_per_dim",
        "grid of pixel centres from 0 to 1": f"({ramp} + 0.5) / n_xels_per_dim",
        "grid from -0.5 to 0.5": f"{ramp} / max(n_xels_per_dim - 1, 1) - 0.5",
        "grid of whole numbers": ramp,
        "grid from +1 to -1": f"1 - 2 * {ramp} / max(n_xels_per_dim - 1, 1)",
        "grid in proportion to the larger axis": f"-1 + 2 * {ramp} / (max(index_dims) - 1)",
    }.items():
        also = ("position-axes",) if "+1 to" in variant else ()
        rows += scoped("position-grid", variant, HF, Edit(grid, f"return {form}"), only=FOURIER, also=also)
    subsampled = "pos = -1 + 2 * pos / torch.tensor(self.output_index_dims, device=pos.device)[None, :]"
    ends = Edit(
        subsampled, "pos = -1 + 2 * pos / (torch.tensor(self.output_index_dims, device=pos.device) - 1)[None, :]"
    )
    unit = Edit(subsampled, "pos = pos / torch.tensor(self.output_index_dims, device=pos.device)[None, :]")
    rows += scoped("position-grid", "decoded points on the grid with end points", HF, ends, only="subsampled")
    rows += scoped("position-grid", "decoded points from 0 to 1", HF, unit, only="subsampled")
    stacked = "return torch.stack(array_index_grid, dim=-1)"
    mesh = 'array_index_grid = torch.meshgrid(*dim_ranges, indexing="ij")'
    xy = 'array_index_grid = torch.meshgrid(*dim_ranges, indexing="xy")'
    for variant, edit in {
        "axes stacked in reverse (x before y)": Edit(stacked, "return torch.stack(array_index_grid[::-1], dim=-1)"),
        "meshgrid indexing 'xy'": Edit(mesh, xy),
        "positions flattened column by column": Edit(
            stacked, "return torch.stack(array_index_grid, dim=-1).transpose(0, 1)"
        ),
        "meshgrid of the reversed axes": Edit(mesh, mesh.replace("*dim_ranges", "*dim_ranges[::-1]")),
    }.items():
        rows += scoped("position-axes", variant, HF, edit, only=FOURIER)
    return rows


ROWS: tuple[Deviation, ...] = tuple(_fourier())
