"""What the files of `real/` hold: sizes of the models, and the rule that their weights follow; see `make_real`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

REAL = Path(__file__).parent / "real"
RESAMPLER = {"dim": 4, "depth": 1, "dim_head": 2, "heads": 2, "num_latents": 2, "num_media_embeds": 1, "ff_mult": 1}
PALM = {
    "num_tokens": 9,
    "dim": 4,
    "depth": 1,
    "dim_head": 2,
    "heads": 2,
    "ff_mult": 1,
    "perceiver_num_latents": 2,
    "perceiver_depth": 1,
    "max_video_frames": None,
    "media_token_id": 3,
}
IDEFICS2 = {
    "text_config": {
        "model_type": "mistral",
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "vision_config": {
        "hidden_size": 4,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 4,
        "patch_size": 2,
    },
    "perceiver_config": {
        "hidden_size": 8,
        "resampler_n_latents": 2,
        "resampler_depth": 1,
        "resampler_n_heads": 2,
        "resampler_head_dim": 4,
        "num_key_value_heads": 1,
    },
    "image_token_id": 7,
}
FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Eighths between -1 and 1, which every floating-point format but float8_e8m0fnu holds exactly."""
    size = int(np.prod(shape))
    return ((np.arange(size, dtype=np.float32) * 3 + len(name)) % 17 - 8).reshape(shape) / 8
