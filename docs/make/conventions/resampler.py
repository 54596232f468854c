"""Flamingo's Perceiver Resampler: where the implementations differ from the paper and each other."""

from __future__ import annotations

from typing import Any

from perceiver_ref.models.attention import Attention
from perceiver_ref.models.conventions import FLAMINGO_DIALECTS
from perceiver_ref.models.module import variant

from .rows import Convention, Evidence, Family, PartOption, convention

_PAPER, _LUCIDRAINS = FLAMINGO_DIALECTS["paper"], FLAMINGO_DIALECTS["lucidrains-flamingo"]
_COLUMNS = {
    "paper": _PAPER,
    "lucidrains-flamingo": _LUCIDRAINS,
    "open-flamingo": FLAMINGO_DIALECTS["open-flamingo"],
    "idefics": FLAMINGO_DIALECTS["idefics"],
    "idefics2": FLAMINGO_DIALECTS["idefics2"],
    "evolla": _LUCIDRAINS,
}
# Exchanges of what is no option: each takes the place of a layer or function, as in `deviations.base.Exchange`.


def _left_out(original: Any, attention: Any, *arguments: Any, **options: Any) -> Any:
    return variant(attention, Attention).apply(*arguments, **options)


RESAMPLER = Family(
    "Flamingo's Perceiver Resampler",
    "`lucidrains-flamingo` is flamingo-pytorch; `idefics`, `idefics2` and `evolla` are transformers'.",
    _COLUMNS,
    (
        convention(
            "activation",
            "Activation of the resampler's MLP",
            "The paper's table says squared ReLU, which none of the implementations has.",
            _COLUMNS,
            ("lucidrains-flamingo/resampler_4d", "idefics/resampler_plain", "idefics2/resampler_gqa"),
            values={"idefics2": "silu, or `hidden_act`"},
        ),
        convention(
            "gated_mlp",
            "Gated MLP of the resampler",
            "Whether its MLP is a gated linear unit.",
            _COLUMNS,
            ("idefics/resampler_plain", "idefics2/resampler_gqa"),
        ),
        convention(
            "norm",
            "Norms of the resampler",
            "Layer norm, or RMS norm, which neither subtracts the mean nor adds an offset.",
            _COLUMNS,
            ("open-flamingo/resampler_plain", "idefics2/resampler_gqa", "evolla/resampler"),
        ),
        convention(
            "norm_eps",
            "Epsilon of the resampler's norms",
            "What is added to the variance or the mean square.",
            _COLUMNS,
            ("lucidrains-flamingo/resampler_4d", "idefics2/resampler_mqa_sdpa"),
            values={"idefics2": "1e-06, or `rms_norm_eps`"},
        ),
        Convention(
            "Embeddings of media",
            "How many learned embeddings of a medium's place among the media are added to its features (none: the "
            "paper's).",
            {
                "paper": "none",
                "lucidrains-flamingo": "`num_media_embeds`: 4",
                "open-flamingo": "`max_num_media`: none",
                "idefics": "none",
                "idefics2": "none",
                "evolla": "none",
            },
            PartOption("PerceiverResampler", "media"),
            (
                Evidence("lucidrains-flamingo/resampler_4d", 4),
                Evidence("open-flamingo/resampler_embs", 5),
                Evidence("open-flamingo/resampler_plain", None),
            ),
        ),
        Convention(
            "Embeddings of frames",
            "How many learned embeddings of time are added to the features of frames.",
            {
                "paper": "8, interpolated for more frames",
                "lucidrains-flamingo": "none; `max_video_frames` in FlamingoPaLM",
                "open-flamingo": "`max_num_frames`: none",
                "idefics": "none",
                "idefics2": "none",
                "evolla": "none",
            },
            PartOption("PerceiverResampler", "frames"),
            (
                Evidence("lucidrains-flamingo/resampler_4d", None),
                Evidence("open-flamingo/resampler_embs", 3),
                Evidence("idefics/resampler_plain", None),
            ),
        ),
        Convention(
            "Norm of queries and keys in the resampler",
            "Whether each head's queries and keys are normed.",
            {
                "paper": "no",
                "lucidrains-flamingo": "no",
                "open-flamingo": "no",
                "idefics": "`qk_layer_norms_perceiver`: no",
                "idefics2": "no",
                "evolla": "no",
            },
            PartOption("PerceiverResampler", "qk_norm"),
            (Evidence("idefics/resampler_qknorm", True), Evidence("open-flamingo/resampler_plain", False)),
        ),
        Convention(
            "Heads of keys and values in the resampler",
            "How many there are where they are fewer than those of queries (none: as many).",
            {
                "paper": "as many",
                "lucidrains-flamingo": "as many",
                "open-flamingo": "as many",
                "idefics": "as many",
                "idefics2": "`num_key_value_heads`: 4 of 16",
                "evolla": "as many",
            },
            PartOption("PerceiverResampler", "kv_heads"),
            (Evidence("idefics2/resampler_gqa", 2), Evidence("idefics/resampler_plain", None)),
        ),
        Convention(
            "Masked scores of the resampler",
            "What becomes of scores of padding: left out, or set to -1e4 after the row's largest score, padding "
            "included, was subtracted. The two are one unless scores are thousands apart.",
            {
                "paper": "no mask",
                "lucidrains-flamingo": "no mask",
                "open-flamingo": "no mask",
                "idefics": "no mask",
                "idefics2": "left out",
                "evolla": "-1e4",
            },
            "`ops.attention`; the other in peers/transformers/evolla.py",
            (
                Evidence("idefics2/resampler_gqa", "left out"),
                Evidence("evolla/resampler", "-1e4", {"left out": {Attention.apply: _left_out}}, same=True),
            ),
        ),
        Convention(
            "End of the resampler",
            "What follows the last layer: a norm, or a linear map with bias to the language model's width and a norm.",
            {
                "paper": "norm",
                "lucidrains-flamingo": "norm",
                "open-flamingo": "norm",
                "idefics": "norm",
                "idefics2": "norm",
                "evolla": "linear, norm",
            },
            "`PerceiverResampler`; the other in peers/transformers/evolla.py",
            (Evidence("open-flamingo/resampler_plain", "norm"), Evidence("evolla/resampler", "linear, norm")),
        ),
    ),
)
