"""Writes gguf_resampler.gguf beside it by the `gguf` package (0.19.0): `python make_gguf.py`.

The arrays of a small IP-Adapter resampler below `image_proj.`, matrices in float16, norms, biases and latents in
float32, as conversions have them, and one array of the adapter that the resampler has no use for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CONFIG = {"dim": 6, "depth": 1, "dim_head": 4, "heads": 3, "num_queries": 5, "embedding_dim": 7, "output_dim": 8}
SHAPES: dict[str, tuple[int, ...]] = {
    "latents": (1, 5, 6),
    "proj_in.weight": (6, 7),
    "proj_in.bias": (6,),
    "proj_out.weight": (8, 6),
    "proj_out.bias": (8,),
    **{f"{norm}.{kind}": (width,) for norm, width in (("norm_out", 8), ("layers.0.0.norm1", 6), ("layers.0.0.norm2", 6),
       ("layers.0.1.0", 6)) for kind in ("weight", "bias")},
    "layers.0.0.to_q.weight": (12, 6),
    "layers.0.0.to_kv.weight": (24, 6),
    "layers.0.0.to_out.weight": (6, 12),
    "layers.0.1.1.weight": (24, 6),
    "layers.0.1.3.weight": (6, 24),
}  # fmt: skip


def arrays() -> dict[str, np.ndarray]:
    """The arrays by the peer's names."""
    rng = np.random.default_rng(7)
    kinds = {name: np.float16 if len(shape) == 2 else np.float32 for name, shape in SHAPES.items()}
    return {name: rng.standard_normal(shape).astype(kinds[name]) for name, shape in SHAPES.items()}


if __name__ == "__main__":
    import gguf

    made = arrays()
    writer = gguf.GGUFWriter(HERE / "gguf_resampler.gguf", "ip-adapter")
    writer.add_string("general.name", "a small resampler")
    for name, array in made.items():
        writer.add_tensor(f"image_proj.{name}", array)
    writer.add_tensor("ip_adapter.1.to_k_ip.weight", np.ones((3, 8), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
