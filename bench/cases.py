"""The table of cases: what is measured, at which sizes, and in which implementations."""

from __future__ import annotations

from collections.abc import Sequence

from perceiver_ref.errors import one_of

from .case import BOTH, COMMAND, FORWARD, IMPORT, STEP, BenchCase
from .scaling import POINTS, points


def _ours_and(peer: str, *more: str) -> tuple[str, ...]:
    return ("ours", "plain", *more, peer, f"{peer} compiled")


IMAGENET = {"height": 224, "latents": 512, "channels": 1024, "blocks": 8, "layers": 6, "classes": 1000}
IMAGENET_QUICK = {"height": 6, "latents": 4, "channels": 16, "blocks": 2, "layers": 2, "classes": 5}
LANGUAGE = {"length": 2048, "embedding": 768, "latents": 256, "channels": 1280, "layers": 26}
LANGUAGE_QUICK = {"length": 12, "embedding": 16, "latents": 4, "channels": 16, "layers": 2}
SMALL_LANGUAGE = {"length": 64, "embedding": 64, "latents": 32, "channels": 64, "layers": 4}
FLOW = {"size": (368, 496), "latents": 2048, "channels": 512, "layers": 24, "heads": 16}
VIDEO = {"frames": 16, "height": 224, "samples": 1920, "latents": 784, "channels": 512, "layers": 8, "outputs": 512}
VIDEO_QUICK = {"frames": 2, "height": 8, "samples": 32, "latents": 4, "channels": 16, "layers": 1, "outputs": 16}
PERCEIVER = {"height": 224, "latents": 256, "channels": 512, "depth": 6, "classes": 1000, "heads": 8}

CASES: dict[str, BenchCase] = {
    case.name: case
    for case in (
        *(
            BenchCase(
                f"imagenet-{batch}",
                f"Perceiver IO on ImageNet with Fourier features, batch {batch}",
                "imagenet",
                {**IMAGENET, "batch": batch},
                {**IMAGENET_QUICK, "batch": 1},
                _ours_and("transformers", "checkpointed", "recorded", "recorded 3xtf32", "jax"),
                gib={("transformers", BOTH): 7 * batch, ("plain", BOTH): 6 * batch, ("jax", BOTH): 8 * batch},
            )
            for batch in (1, 8)
        ),
        *(
            BenchCase(
                f"language-{batch}",
                f"Perceiver IO masked language model, 2048 bytes, 201M parameters, batch {batch}",
                "language",
                {**LANGUAGE, "batch": batch},
                {**LANGUAGE_QUICK, "batch": 2},
                _ours_and("transformers", "checkpointed", "recorded", "recorded 3xtf32", "jax"),
                gib={("transformers", BOTH): 4 + 1.5 * batch, ("jax", BOTH): 4 + 1.5 * batch},
            )
            for batch in (1, 8)
        ),
        BenchCase(
            "flow",
            "Perceiver IO optical flow, 368 x 496: 182,528 inputs and outputs",
            "flow",
            FLOW,
            {"size": (4, 5), "latents": 4, "channels": 16, "layers": 1, "heads": 2},
            ("ours", "recorded", "transformers", "transformers compiled"),
            gib={("ours", BOTH): 12, ("transformers", FORWARD): 8, ("transformers", BOTH): 24},
        ),
        BenchCase(
            "multimodal",
            "Perceiver IO video autoencoder: 52,097 inputs, and 1 of 128 parts of its 804,737 outputs",
            "multimodal",
            {**VIDEO, "parts": 128},
            {**VIDEO_QUICK, "parts": 4},
            ("ours", "transformers", "transformers compiled"),
        ),
        BenchCase(
            "perceiver",
            "Perceiver with 6 cross-attentions on 50,176 pixels, perceiver-pytorch's variant",
            "perceiver",
            PERCEIVER,
            {**PERCEIVER, "height": 4, "latents": 4, "channels": 16, "depth": 2, "classes": 5, "heads": 2},
            _ours_and("perceiver-pytorch", "recorded"),
        ),
        BenchCase(
            "resampler",
            "Perceiver Resampler, 8 x 256 features of 1024 channels, depth 6, 16 heads",
            "resampler",
            {"batch": 8, "features": 256, "channels": 1024, "depth": 6, "heads": 16, "latents": 64},
            {"batch": 2, "features": 5, "channels": 16, "depth": 2, "heads": 2, "latents": 3},
            _ours_and("flamingo-pytorch", "recorded"),
        ),
        BenchCase(
            "gated",
            "gated cross-attention, 8 texts of 256 tokens and 3 media of 64, 1024 channels, 16 heads",
            "gated",
            {"batch": 8, "length": 256, "media": 3, "tokens": 64, "channels": 1024, "heads": 16},
            {"batch": 2, "length": 7, "media": 2, "tokens": 3, "channels": 16, "heads": 2},
            _ours_and("flamingo-pytorch", "recorded"),
        ),
        BenchCase(
            "training-step",
            "a step of AdamW on a small language model, where overhead rules",
            "language",
            {**SMALL_LANGUAGE, "batch": 8},
            {**LANGUAGE_QUICK, "batch": 2},
            _ours_and("transformers"),
            passes=(STEP,),
        ),
        BenchCase(
            "digits",
            "a step of the digits recipe: batch 64, 64 pixels, 8 latents of 64 channels",
            "digits",
            {"batch_size": 64},
            {"batch_size": 3},
            ("ours", "plain", "torch"),
            passes=(STEP,),
        ),
        BenchCase(
            "engine",
            "the engine alone: a pre-norm Transformer block, 8 x 32 vectors of 64 channels, 4 heads",
            "engine",
            {"batch": 8, "length": 32, "channels": 64, "heads": 4},
            {"batch": 2, "length": 3, "channels": 8, "heads": 2},
            ("ours", "ours elementary", "autograd", "mygrad"),
            passes=(BOTH,),
        ),
        BenchCase(
            "import",
            "importing, each in a fresh Python",
            "import",
            {"modules": None},
            {"modules": ("ours",)},
            ("ours", "ours model", "python", "torch", "transformers", "flamingo-pytorch", "jax"),
            passes=(IMPORT,),
        ),
        *(
            BenchCase(name, what, "command", full, quick, ("ours",), passes=(COMMAND,))
            for name, what, full, quick in (
                ("check", "checking the packaged cases, after import", *2 * ({"command": ("check",)},)),
                (
                    "check-500",
                    "checking 500 cases, two at a time, after import",
                    {"command": ("check", "--jobs", "2", "{cases}"), "cases": 500},
                    {"command": ("check", "{cases}"), "cases": 3},
                ),
                (
                    "export-pack",
                    "writing the conformance pack, after import",
                    {"command": ("export", "--pack", "{out}", "--force")},
                    {"command": ("export", "perceiver-io/language", "--cases", "plain", "--out", "{out}", "--force")},
                ),
            )
        ),
    )
}


def case(name: str) -> BenchCase:
    """A row of the table, scaling's included; `InputError` listing all for an unknown name."""
    known = {**CASES, **POINTS}
    if name not in known:
        raise one_of("case", name, known)
    return known[name]


def chosen(names: Sequence[str] | None, backend: str = "numpy") -> list[BenchCase]:
    """The cases of these names, all for None; "scaling" and "scaling-M" stand for all points of the axes or of one."""
    along = points(backend)
    if not names:
        return [*CASES.values(), *along]
    found: dict[str, BenchCase] = {}
    for name in names:
        group = [row for row in along if name == "scaling" or row.name.startswith(f"{name}-")]
        found |= {row.name: row for row in (group if name.startswith("scaling") and group else [case(name)])}
    return list(found.values())
