"""What the papers print about their models, and why a figure of the ledger may differ from it."""

from __future__ import annotations

from dataclasses import dataclass

_SCALES = {"M": 10**6, "B": 10**9, "T": 10**12}

_P = "Perceiver (2103.03206v2)"
_IO = "Perceiver IO (2107.14795v3)"
_IMAGENET = f"{_IO}, table 5"
_TABLE = f"{_IO}, table 9"
_FLAMINGO = "Flamingo (2204.14198)"
_LEARNED = "the paper prints the FLOPs of the Fourier model for this one, whose inputs are 512 wide and not 261"
_LANGUAGE = "printed FLOPs do not follow from the printed sizes"


@dataclass(frozen=True)
class Printed:
    """Figures as printed, such as "48.4M", their source, and a remark on what differs."""

    source: str
    parameters: str | None = None
    flops: str | None = None
    remark: str = ""


PRINTED: dict[str, Printed] = {
    "perceiver/imagenet": Printed(f"{_P}, table 6", "44.9M", "707.2B"),
    "perceiver/imagenet-unshared": Printed(f"{_P}, section 4.1", "326.2M"),
    "perceiver/imagenet-1-cross": Printed(f"{_P}, table 6", "42.1M", "404.3B"),
    "perceiver/imagenet-2-cross": Printed(f"{_P}, table 6", "44.9M", "447.6B"),
    "perceiver/imagenet-4-cross": Printed(f"{_P}, table 6", "44.9M", "534.1B"),
    "perceiver/imagenet-4-cross-only": Printed(f"{_P}, table 5", "12.7M", "173.1B"),
    "perceiver/imagenet-8-cross-only": Printed(f"{_P}, table 5", "23.8M", "346.1B"),
    "perceiver/imagenet-12-cross-only": Printed(f"{_P}, table 5", "34.9M", "519.2B"),
    "perceiver/imagenet-conv": Printed(_IMAGENET, None, "367B"),
    "perceiver/audioset": Printed(f"{_IO}, AudioSet", "21.0M", "52.3B"),
    "perceiver/audioset-mel": Printed(f"{_IO}, AudioSet", "21.0M", "60.7B"),
    "perceiver-io/imagenet-fourier": Printed(_TABLE, "48.4M", "407B"),
    "perceiver-io/imagenet-learned": Printed(_TABLE, "62.3M", "407B", _LEARNED),
    "perceiver-io/imagenet-conv": Printed(_TABLE, "48.6M", "369B"),
    "perceiver-io/imagenet-fourier-b": Printed(
        _TABLE, "212M", "213B", "printed parameters fit 16 self-attentions, printed FLOPs 12"
    ),
    "perceiver-io/language": Printed(_TABLE, "201M", "113B", _LANGUAGE),
    "perceiver-io/language-sp": Printed(_TABLE, "223M", "119B", _LANGUAGE),
    "perceiver-io/language-plus": Printed(_TABLE, "425M", "241B", "the paper cuts 425.6M off where others are rounded"),
    "perceiver-io/optical-flow": Printed(
        _TABLE,
        "27.9M",
        "987B",
        "this is the released model, which projects 54 to 64 channels before it adds positions; the paper after",
    ),
    "perceiver-io/multimodal": Printed(
        _TABLE,
        "20.0M",
        "6.85T",
        "the released model has 1,920 elements of sound (52,097 in, 804,737 out), the table implies 480 and prints "
        "other bands' parameters; 310B is printed for a training step, which decodes 512 pixels and 512 sounds",
    ),
    "perceiver-io/audioset": Printed(_TABLE, "25.0M", "52.9B", "printed figures are 0.3 % and 0.2 % larger"),
    "perceiver-io/audioset-mel": Printed(_TABLE, "88.2M", "129.5B", "printed figures are 1.9 % and 0.1 % larger"),
    "perceiver-io/starcraft": Printed(
        _TABLE, "140M", "0.93B", "140M are the whole agent's; the paper does not give the width of the latents"
    ),
    **{
        f"flamingo/resampler-{size}": Printed(
            f"{_FLAMINGO}, table 1", "194M", None, "heads of 128 and a projection from 3072 to 1536 would give 193.6M"
        )
        for size in ("3b", "9b", "80b")
    },
    "flamingo/gated-xattn-3b": Printed(f"{_FLAMINGO}, table 1", "1.2B"),
    "flamingo/gated-xattn-9b": Printed(
        f"{_FLAMINGO}, table 1", "1.6B", None, "10 layers of the printed sizes are 1.8B, or 2.0B with keys of 4096"
    ),
    "flamingo/gated-xattn-80b": Printed(
        f"{_FLAMINGO}, table 1", "10B", None, "12 layers of the printed sizes are 8.4B, or 9.7B with keys of 8192"
    ),
}
"""Printed figures by preset or variant; "T" is 10^12."""


def agrees(computed: int, printed: str) -> bool:
    """Whether a figure, rounded to the digits that the paper prints, is the printed one."""
    digits = len(printed[:-1].partition(".")[2])
    return f"{computed / _SCALES[printed[-1]]:.{digits}f}" == printed[:-1]
