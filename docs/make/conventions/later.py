"""Resamplers of several layers that came after Flamingo's: where the implementations differ."""

from __future__ import annotations

from typing import Any

from perceiver_ref.autograd import ops
from perceiver_ref.models.attention import Attention
from perceiver_ref.models.conventions import RESAMPLER_DIALECTS

from .rows import Change, Convention, Evidence, Family, PartOption, convention

_COLUMNS = {**RESAMPLER_DIALECTS}
_ADAPTERS = ("ip-adapter", "diffusers", "pulid")
_SPEECH = ("xtts", "naturalspeech2")
_PLAIN, _DIFFUSERS, _XTTS = "ip-adapter/resampler_plain", "diffusers/plus", "xtts/resampler_mask"


def _of(adapters: str, speech: str, **others: str) -> dict[str, str]:
    """A row's values: those of image adapters, and those of speech models."""
    return {**dict.fromkeys(_ADAPTERS, adapters), **dict.fromkeys(_SPEECH, speech), **others}


# Exchanges of what is no option: each takes the place of a layer or function, as in `deviations.base.Exchange`.


def _split(original: Any, attention: Any, q: Any, k: Any, *rest: Any) -> Any:
    root = (attention.qk_channels // attention.heads) ** -0.25
    return original(attention.with_fields(scale=1.0), ops.multiply(q, root), ops.multiply(k, root), *rest)


_BOTH: dict[Any, Change] = {"queries and keys": {Attention._mixed: _split}}

LATER = Family(
    "Resamplers after Flamingo's",
    "Image adapters and the conditioning of speech models. diffusers' IPAdapterPlusImageProjection is IP-Adapter's "
    "Resampler and its IPAdapterFaceIDPlusImageProjection the ProjPlusModel, by other names; naturalspeech2's class is "
    "XTTS's but for two defaults.",
    _COLUMNS,
    (
        convention(
            "norm",
            "Norms of later resamplers",
            "Layer norm; or division by the length, times the square root of the width and a scale, which is RMS norm "
            "with nothing added to the mean square.",
            _COLUMNS,
            (_PLAIN, _XTTS),
        ),
        Convention(
            "Epsilon of later resamplers' norms",
            "What is added to the variance, or the least length to divide by, which no length here comes near.",
            _of("1e-05", "1e-12"),
            PartOption("Conventions", "norm_eps"),
            (Evidence(_PLAIN, 1e-5), Evidence(_XTTS, 1e-12, same=True)),
        ),
        Convention(
            "Place of later resamplers' norms",
            "Before attention and MLP; or nowhere but at the end.",
            _of("before", "none"),
            PartOption("Resampler", "norms"),
            (Evidence(_PLAIN, "before"), Evidence(_XTTS, "none")),
        ),
        convention(
            "gated_mlp",
            "Gated MLP of later resamplers",
            "Whether the MLP is a gated linear unit; its gate is then the second half of the first map, which is two "
            "thirds as wide.",
            _COLUMNS,
            (_PLAIN, _XTTS),
        ),
        convention(
            "mlp_bias",
            "Biases of later resamplers' MLP",
            "Whether its linear maps have biases.",
            _COLUMNS,
            (_DIFFUSERS, _XTTS),
        ),
        Convention(
            "Order of keys",
            "Whether the latents come before the features among the keys. Only a mask of all keys can tell.",
            _of("no", "yes"),
            PartOption("Resampler", "latents_first"),
            (Evidence(_PLAIN, False, same=True), Evidence(_XTTS, True)),
        ),
        Convention(
            "Rows of later resamplers without any key",
            "What a query gets that may attend to nothing, latents included: the average of all values, or with "
            "`use_flash_attn` zero. The adapters have no mask.",
            _of("zero, never seen", "uniform; zero with `use_flash_attn`"),
            PartOption("Conventions", "masked_rows"),
            (Evidence(_XTTS, "uniform"), Evidence("xtts/resampler_flash_mask", "zero")),
            paper="zero",
        ),
        Convention(
            "Width before the layers",
            "That of features which a linear map with a bias leads from to the latents' width; none where they are "
            "taken as they are.",
            _of(
                "`embedding_dim`",
                "`dim_context`, where it is another",
                diffusers="`embed_dims`",
                pulid="mapped by MLPs",
            ),
            PartOption("Resampler", "features"),
            (Evidence(_PLAIN, 10), Evidence(_XTTS, None)),
        ),
        Convention(
            "Width after the layers",
            "That which a last linear map with a bias leads to, before the norm; none where the norm alone follows.",
            _of("`output_dim`", "none", diffusers="`output_dims`", pulid="`output_dim`, without bias and norm"),
            PartOption("Resampler", "outputs"),
            (Evidence(_PLAIN, 8), Evidence(_XTTS, None)),
        ),
        Convention(
            "Latents from the mean",
            "How many latents are made of the mean of the mapped features; they come before the learned ones.",
            _of("0", "0", **{"ip-adapter": "`num_latents_mean_pooled`: 0"}),
            PartOption("Resampler", "pooled"),
            (Evidence("ip-adapter/resampler_mean_pooled", 3), Evidence(_DIFFUSERS, 0)),
        ),
        Convention(
            "Learned positions of features",
            "For how many features there are positions, added before the features are mapped.",
            _of("none", "none", **{"ip-adapter": "`max_seq_len` with `apply_pos_emb`: none"}),
            PartOption("Resampler", "places"),
            (Evidence("ip-adapter/resampler_pos_emb", 11), Evidence(_DIFFUSERS, None)),
        ),
        Convention(
            "What the scale is applied to",
            "The scores; or its root to queries and to keys, so that float16 holds their products. In exact arithmetic "
            "they are one.",
            _of("queries and keys", "scores", diffusers="scores; queries and keys for SD3"),
            "the scores, in `ops.attention`",
            (
                Evidence("ip-adapter/attention_large_scores", "queries and keys"),
                Evidence(_DIFFUSERS, "scores", _BOTH, same=True),
                Evidence(_XTTS, "scores", _BOTH, same=True),
            ),
        ),
        Convention(
            "Context of the layers",
            "The same features for all layers; one scale of features after another, beside the tokens of identities; "
            "or features with a timestep, which moves the normed latents of every layer, too.",
            _of("features", "features", diffusers="features; and a timestep for SD3", pulid="five scales, identities"),
            "`Resampler`; the others in peers/pulid.py and peers/diffusers.py",
            (
                Evidence(_PLAIN, "features"),
                Evidence("pulid/idformer", "five scales, identities"),
                Evidence("diffusers/time", "features and a timestep"),
            ),
        ),
    ),
)
