"""3DShape2VecSet (Zhang et al. 2023, arXiv 2301.11445) and VecSetX: auto-encoders of shapes as sets of latents.

`models_ae` of 1zb/3DShape2VecSet has `AutoEncoder`, `KLAutoEncoder` and their parts `Attention` and `PointEmbed`, and
`vecset.models.autoencoder` of 1zb/VecSetX `VecSetAutoEncoder`. Layers are perceiver-pytorch's. A cloud of points is
attended to by some of its own points, or by learned queries; self-attention is the decoder's; queries are points, and
their attention has no residual. Farthest point sampling and the posterior's noise are chance, and given here as
`fps_index` (batch, samples; of points within each cloud) and `noise`.

parts        embedding of points, and what lies between encoder and decoder
model        the auto-encoder
classes      the classes from their configurations, and their names
"""

from __future__ import annotations

from ..base import Peer
from .classes import attention, auto_encoder, kl_auto_encoder, point_embed, vec_set_auto_encoder

PEER = Peer(
    "shape2vecset",
    {
        "AutoEncoder": auto_encoder,
        "KLAutoEncoder": kl_auto_encoder,
        "VecSetAutoEncoder": vec_set_auto_encoder,
        "Attention": attention,
        "PointEmbed": point_embed,
    },
)
