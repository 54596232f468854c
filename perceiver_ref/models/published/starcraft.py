"""StarCraft II: the entity encoder of AlphaStar replaced by a Perceiver IO (its experiment on StarCraft II, table 9).

512 entities in, 32 latents, 3 self-attentions, each entity's 128 channels out. The paper does not determine the rest:
it prints entities 256 wide in one place and 128 in another (256 here, AlphaStar's embedding), no width of the latents
(256 here) and no heads (2 here, AlphaStar's). Its 140M parameters are those of the whole agent.
"""

from __future__ import annotations

from collections.abc import Callable

from ..conventions import Conventions
from ..decoder import Decoder
from ..encoder import Encoder
from ..inputs import VectorInput
from ..perceiver_io import PerceiverIO
from ..queries import InputQueries


def _starcraft(conventions: Conventions) -> PerceiverIO:
    encoder = Encoder(
        inputs=256, latents=32, channels=256, layers=3, cross_heads=2, self_heads=2, conventions=conventions
    )
    decoder = Decoder(256, 256, queries=InputQueries(256), outputs=128, heads=2, conventions=conventions)
    return PerceiverIO(encoder, VectorInput(256), decoder)


PRESETS: dict[str, Callable[[Conventions], PerceiverIO]] = {"perceiver-io/starcraft": _starcraft}
