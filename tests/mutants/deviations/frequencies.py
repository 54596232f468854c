"""Wrong frequencies of Fourier features, for sources that compute those of one axis after the other."""

from __future__ import annotations


def forms(places: str) -> dict[str, str]:
    """Variant -> the frequencies of `axis`, whose resolution is `res`; `places` are the coordinates along it."""
    return {
        "frequencies spaced logarithmically": "torch.logspace(0, math.log2(res / 2), num_bands, 2.0)",
        "frequencies in octaves": "2.0 ** torch.arange(num_bands)",
        "frequencies are the integers from 1": "1.0 + torch.arange(num_bands)",
        "largest frequency is the resolution, not half of it": "torch.linspace(1.0, res, num_bands)",
        "largest frequency left out": "torch.linspace(1.0, res / 2, num_bands + 1)[:-1]",
        "smallest frequency left out": "torch.linspace(1.0, res / 2, num_bands + 1)[1:]",
        "frequencies from 0": "torch.linspace(0.0, res / 2, num_bands)",
        "frequencies in descending order": "torch.linspace(res / 2, 1.0, num_bands)",
        "the axes' resolutions exchanged": "torch.linspace(1.0, max_resolution[-1 - axis] / 2, num_bands)",
        "the first axis' resolution for every axis": "torch.linspace(1.0, max_resolution[0] / 2, num_bands)",
        "the largest resolution for every axis": "torch.linspace(1.0, max(max_resolution) / 2, num_bands)",
        "the grid's own size in place of the resolution": f"torch.linspace(1.0, len({places}.unique()) / 2, num_bands)",
    }
