"""The arguments of other implementations' models, by peer and class; a class without a row is given them as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...errors import InputError
from ...models.inputs import AudioPatches, GridInput, MultimodalInput, TextInput
from ...models.ledger import default_sizes
from ...models.ledger.sizes import Shape, Sizes
from ...peers import Rebuilt
from . import layouts
from .draw import Argument
from .layouts import by_name, element, single
from .subject import Arrays, Layout, Masking, Resize

Recipe = Callable[[Rebuilt, Mapping[str, Any], "Sizes | None"], Layout]
_LENGTH = 7  # elements, where the configuration leaves their number open


def theirs(peer: str, cls: str, rebuilt: Rebuilt, config: Mapping[str, Any], sizes: Sizes | None) -> Layout:
    """The layout of a peer's class; `InputError` where its arguments must be given."""
    short = next(
        (name for name in (cls, ".".join(cls.split(".")[-2:]), cls.rpartition(".")[2]) if (peer, name) in RECIPES), ""
    )
    if not short:
        known = ", ".join(sorted(name for of, name in RECIPES if of == peer))
        hint = f"; shapes alone are enough for {known}" if known else ""
        raise InputError(f"give the arguments of {peer}'s {cls} as an .npz file, --inputs F.npz{hint}")
    return RECIPES[peer, short](rebuilt, config, sizes)


def _hf(rebuilt: Rebuilt, config: Mapping[str, Any], sizes: Sizes | None) -> Layout:
    """Images are channels first; `attention_mask` is 1 where an input is real."""
    model: Any = rebuilt.model
    part = model.preprocessor
    if sizes is None:
        sizes = (_LENGTH, model.encoder.inputs) if part is None else default_sizes(model)
    ours = layouts.layout(model, sizes)

    def arguments(batch: int, shapes: Sizes) -> dict[str, Argument]:
        if isinstance(part, MultimodalInput):
            named = by_name(shapes, part.names)
            return {f"inputs.{name}": _first(part.modalities[name], named[name], batch) for name in part.names}
        return {"inputs": _first(part, single(shapes), batch)}

    maskable = part is None or isinstance(part, TextInput)
    mask = Masking("attention_mask", "inputs", "int64") if maskable else None
    return Layout(
        sizes,
        arguments,
        ours.resized,
        mask,
        lambda inputs: inputs["inputs"].shape[1],
        ours.traits & {"latents", "tokens"},
    )


def _hf_task(rebuilt: Rebuilt, config: Mapping[str, Any], sizes: Sizes | None) -> Layout:
    """Task classes return no latents."""
    return replace(_hf(rebuilt, config, sizes), outputs=lambda name: name != "last_hidden_state")


def _first(part: Any, shape: Shape, batch: int) -> Argument:
    """An argument with channels before height and width."""
    if isinstance(part, GridInput) and not isinstance(part.features, AudioPatches):
        *lead, height, width, channels = shape
        shape = (*lead, channels, height, width)
    return element(part, shape, batch)


def _text(name: str, mask: Masking) -> Recipe:
    """Token ids of a PerceiverIO."""

    def recipe(rebuilt: Rebuilt, config: Mapping[str, Any], sizes: Sizes | None) -> Layout:
        model: Any = rebuilt.model
        ours = layouts.layout(model, sizes or default_sizes(model))
        return _renamed(ours, {"inputs": name}, mask)

    return recipe


def _renamed(ours: Layout, names: Mapping[str, str], mask: Masking | None) -> Layout:
    """A layout of ours under other names."""

    def arguments(batch: int, shapes: Sizes) -> dict[str, Argument]:
        return {names.get(name, name): a for name, a in ours.arguments(batch, shapes).items()}

    def elements(inputs: Arrays) -> int:
        assert mask is not None
        of = inputs[str(mask.of)]
        return of[0].size if of.dtype.kind != "f" else of[0, ..., 0].size

    return Layout(ours.sizes, arguments, ours.resized, mask, elements, ours.traits - {"points", "positions"})


def _grid(rebuilt: Rebuilt, config: Mapping[str, Any], sizes: Sizes | None) -> Layout:
    """lucidrains' Perceivers: data (batch, *axes, channels), a mask of the axes."""
    axes = int(config.get("input_axis", 2))
    usual: Shape = single(sizes) if sizes is not None else (*(4, 5, 3)[:axes], int(config.get("input_channels", 3)))

    def resized(kind: Resize) -> Sizes | None:
        shapes = {"odd": (3, 5, 2), "single": (1, 1, 1), **({"non-square": (2, 6, 2)} if axes > 1 else {})}
        return None if kind not in shapes else (*shapes[kind][:axes], usual[-1])

    return Layout(
        usual,
        lambda batch, shapes: {"data": Argument((batch, *single(shapes)))},
        resized,
        Masking("mask", "data", flat=False),
        lambda inputs: inputs["data"][0, ..., 0].size,
        frozenset({"latents"}),
    )


def _data_and_queries(rebuilt: Rebuilt, config: Mapping[str, Any], sizes: Sizes | None) -> Layout:
    shapes = {"data": (_LENGTH, int(config["dim"])), "queries": (4, int(config["queries_dim"]))}
    usual = by_name(sizes or shapes, ["data", "queries"])

    def resized(kind: Resize) -> Sizes | None:
        lengths = {"odd": 5, "single": 1}
        return None if kind not in lengths else {**usual, "data": (lengths[kind], usual["data"][1])}

    def arguments(batch: int, shapes: Sizes) -> dict[str, Argument]:
        return {name: Argument((batch, *shape)) for name, shape in by_name(shapes, ["data", "queries"]).items()}

    return Layout(
        usual,
        arguments,
        resized,
        Masking("mask", "data"),
        lambda inputs: inputs["data"].shape[1],
        frozenset({"latents", "vectors"}),
    )


def _resampler(name: str, axes: int, mask: Masking | None = None) -> Recipe:
    """Features with `axes` axes before those of tokens and channels; a mask is always given."""

    def recipe(rebuilt: Rebuilt, config: Mapping[str, Any], sizes: Sizes | None) -> Layout:
        model: Any = rebuilt.model
        frames = min(2, model.frames or 2)
        lead = (min(2, model.media or 2), frames)[:axes]
        ours = single(sizes or (*lead, 5, model.channels))
        others: dict[str, Shape] = {
            "odd": (*ours[:-2], 7, ours[-1]),
            "single": (*(1,) * axes, 1, ours[-1]),
        }

        def arguments(batch: int, shapes: Sizes) -> dict[str, Argument]:
            whole = (batch, *single(shapes))
            masks = {} if mask is None else {mask.name: Argument(whole[:-1], "real", dtype=mask.dtype)}
            return {name: Argument(whole), **masks}

        return Layout(
            ours,
            arguments,
            others.get,
            mask,
            lambda inputs: inputs[name][0, ..., 0].size,
            frozenset({"latents", "vectors"}),
        )

    return recipe


def _one_set(name: str, mask: Masking | None = None) -> Recipe:
    """One set of features (batch, tokens, channels)."""

    def recipe(rebuilt: Rebuilt, config: Mapping[str, Any], sizes: Sizes | None) -> Layout:
        model: Any = rebuilt.model
        width = model.block.channels if hasattr(model, "block") else model.width
        places = getattr(model, "places", None)
        tokens, width = single(sizes or (min(_LENGTH, places or _LENGTH), width))
        fixed = places is not None
        return Layout(
            (tokens, width),
            lambda batch, shapes: {name: Argument((batch, *single(shapes)))},
            lambda kind: None if fixed else {"odd": (tokens + 2, width), "single": (1, width)}.get(kind),
            mask,
            lambda inputs: inputs[name].shape[1],
            frozenset({"latents", "vectors"}),
        )

    return recipe


def _gated(rebuilt: Rebuilt, config: Mapping[str, Any], sizes: Sizes | None) -> Layout:
    model: Any = rebuilt.model
    given = {"text": (9, model.channels), "media": (2, 3, model.media_channels)}
    if sizes is not None:
        named = by_name(sizes, ["media", "x"])
        given = {"text": named["x"], "media": named["media"]}
    return _renamed(layouts.layout(model, given), {"text": "x", "locations": "media_locations"}, None)


RECIPES: dict[tuple[str, str], Recipe] = {
    ("hf", "PerceiverModel"): _hf,
    **{
        ("hf", name): _hf_task
        for name in (
            "PerceiverForMaskedLM",
            "PerceiverForSequenceClassification",
            "PerceiverForImageClassificationLearned",
            "PerceiverForImageClassificationFourier",
            "PerceiverForImageClassificationConvProcessing",
            "PerceiverForOpticalFlow",
            "PerceiverForMultimodalAutoencoding",
        )
    },
    **{
        ("lucidrains-perceiver", name): _grid
        for name in ("Perceiver", "gated.Perceiver", "mixed_latents.Perceiver", "experimental.Perceiver")
    },
    ("lucidrains-perceiver", "PerceiverIO"): _data_and_queries,
    ("lucidrains-perceiver", "PerceiverLM"): _text("x", Masking("mask", "x")),
    ("lucidrains-flamingo", "PerceiverResampler"): _resampler("x", 1),
    ("lucidrains-flamingo", "GatedCrossAttentionBlock"): _gated,
    ("open-flamingo", "PerceiverResampler"): _resampler("x", 2),
    ("open-flamingo", "GatedCrossAttentionBlock"): _gated,
    ("idefics", "IdeficsPerceiverResampler"): _resampler("context", 0),
    ("idefics2", "Idefics2PerceiverResampler"): _resampler("context", 0, Masking("attention_mask", "context", "int64")),
    ("ip-adapter", "Resampler"): _one_set("x"),
    ("diffusers", "IPAdapterPlusImageProjection"): _one_set("x"),
    ("timm", "AttentionPoolLatent"): _one_set("x"),
    ("open-clip", "AttentionalPooler"): _one_set("x"),
    ("siglip", "SiglipMultiheadAttentionPoolingHead"): _one_set("hidden_state"),
    ("siglip", "Siglip2MultiheadAttentionPoolingHead"): _one_set(
        "hidden_state", Masking("attention_mask", "hidden_state", "int64")
    ),
    ("xtts", "PerceiverResampler"): _one_set("x"),
    ("naturalspeech2", "PerceiverResampler"): _one_set("x"),
    ("chatterbox", "Perceiver"): _one_set("h"),
    ("kosmos2", "Kosmos2ImageToTextProjection"): _one_set("features"),
    ("kosmos2", "Kosmos2_5ImageToTextProjection"): _one_set("features"),
    ("krasserm", "MaskedLanguageModel"): _text("x_masked", Masking("pad_mask", "x_masked", inverted=True)),
    ("krasserm", "TextClassifier"): _text("x", Masking("pad_mask", "x", inverted=True)),
}
"""By peer and class."""
