"""Which media a text token attends to, computed from where the image tags are (Flamingo, section 2.3 and appendix A.1).

m media of N tokens each, in the order of their tags; L text tokens.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ...autograd.backend import Array, xp
from ...autograd.handlers import Step
from ...errors import InputError, one_of

Which = Literal["immediate", "all"]


class MediaMask(NamedTuple):
    """What gated cross-attention lets text see; True = attend."""

    attend: Array
    """(B, L, m N), bool"""
    seen: Array | None = None
    """(B, L), bool: a token where it is False gets zeros, whatever attention gives a query without keys"""


@Step
def preceding(locations: Array, before: Array | None = None) -> Array:
    """phi of the paper: how many media come up to each token, its own tag included; 0 where there is none.

    locations (B, L), bool: True at an image tag. before (B,): media of earlier tokens, for text that continues a cached
    prompt. Returns (B, L), int64.
    """
    if locations.ndim != 2 or locations.dtype != bool:
        raise InputError(
            f"media locations must be bool of shape (batch, tokens), got {locations.dtype} of {tuple(locations.shape)}"
        )
    phi = locations.cumsum(-1, dtype="int64")
    if before is not None:
        if tuple(before.shape) != tuple(phi.shape[:1]) or before.dtype.kind not in "iu":
            raise InputError(
                f"the media seen before must be integers of shape {tuple(phi.shape[:1])}, "
                f"got {before.dtype} of {tuple(before.shape)}"
            )
        phi = phi + before[:, None]
    return phi


@Step
def media_mask(phi: Array, *, media: int, tokens: int, which: Which = "immediate") -> MediaMask:
    """The mask for m = `media` media of N = `tokens` tokens each; phi (B, L), as `preceding` gives it.

    "immediate" (the paper): a token attends to medium phi alone. Text before the first medium gets zeros. Text after
    more tags than media matches no medium: the conventions' `masked_rows` say what it gets.
    "all": a token attends to media 1 to phi. Text before the first medium matches none: `masked_rows`, as above.
    """
    if which not in ("immediate", "all"):
        raise one_of("media option", which, ("immediate", "all"))
    library = xp(phi)
    number = library.arange(1, media + 1).repeat(tokens)  # (m N,)
    if which == "all":
        return MediaMask(number <= phi[..., None])
    return MediaMask(number == phi[..., None], phi > 0)
