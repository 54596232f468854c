"""Small models of Idefics and Idefics2."""

from __future__ import annotations

from typing import Any

import numpy as np

from mutants.kinds.inputs import lengths, masked, normal
from mutants.models import IDEFICS2, IDEFICS_GATED, IDEFICS_RESAMPLER, Model

IDEFICS_INDEX = np.array([[-1, -1, 0, 0, 1, 1, 1], [0, 0, 0, -1, 1, 1, -1]])
IDEFICS_LAYER = {
    "hidden_size": 12,
    "intermediate_size": 15,
    "num_attention_heads": 3,
    "alpha_type": "vector",
    "qk_layer_norms": False,
    "vision_config": {"embed_dim": 10},
    "attn_implementation": "eager",
}


def idefics(name: str, **changes: Any) -> Model:
    """Idefics' gated cross-attention layer."""
    return Model(
        name,
        "idefics",
        IDEFICS_GATED,
        "IdeficsGatedCrossAttentionLayer",
        {**IDEFICS_LAYER, **changes},
        masked(normal(hidden_states=(2, 7, 12), image_hidden_states=(2, 6, 10)), image_index=IDEFICS_INDEX),
        call={"tokens_per_image": 3, "method": "idefics_gated"},
    )


IDEFICS_SIZES = {"embed_dim": 10, "depth": 2, "n_heads": 2, "head_dim": 5, "n_latents": 3}
IDEFICS2_SIZES = {
    "hidden_size": 12,
    "resampler_n_latents": 3,
    "resampler_depth": 2,
    "resampler_n_heads": 4,
    "resampler_head_dim": 5,
    "num_key_value_heads": 2,
}
IDEFICS_MODELS = (
    *(
        Model(
            name,
            "idefics",
            IDEFICS_RESAMPLER,
            "IdeficsPerceiverResampler",
            {**IDEFICS_SIZES, "qk_layer_norms": norms},
            normal(context=(2, 7, 10)),
        )
        for name, norms in (("resampler_plain", False), ("resampler_qknorm", True))
    ),
    idefics("gated_xattn_vector"),
    idefics("gated_xattn_float", alpha_type="float", qk_layer_norms=True),
    Model(
        "resampler_gqa",
        "idefics2",
        IDEFICS2,
        "Idefics2PerceiverResampler",
        {**IDEFICS2_SIZES, "rms_norm_eps": 1e-05},
        masked(normal(context=(2, 7, 12)), attention_mask=lengths((7, 4), 7)),
    ),
    Model(
        "resampler_mqa_sdpa",
        "idefics2",
        IDEFICS2,
        "Idefics2PerceiverResampler",
        {**IDEFICS2_SIZES, "num_key_value_heads": 1, "hidden_act": "gelu", "attn_implementation": "sdpa"},
        masked(normal(context=(2, 6, 12)), attention_mask=lengths((6, 3), 6)),
    ),
)
