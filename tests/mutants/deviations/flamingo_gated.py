"""Deviations planted in the gated cross-attention of flamingo-pytorch and open_flamingo."""

from __future__ import annotations

from mutants.deviations.row import Deviation, scoped
from mutants.source import Edit

FP, OF = ("lucidrains-flamingo",), ("open-flamingo",)
GATED = "gated"


def _gates() -> list[Deviation]:
    rows: list[Deviation] = []
    fp = (
        "x = self.attn(x, media, media_locations = media_locations) * self.attn_gate.tanh() + x",
        "x = self.ff(x) * self.ff_gate.tanh()  + x",
    )
    of = (
        "x = self.attn(x, media, media_locations) * self.attn_gate.tanh() + x",
        "x = self.ff(x) * self.ff_gate.tanh() + x",
    )
    for peers, (attend, feed) in ((FP, fp), (OF, of)):

        def edits(old: str, new: str, attend: str = attend, feed: str = feed) -> dict[str, tuple[Edit, ...]]:
            one, two = (Edit(text, text.replace(old, new)) for text in (attend, feed))
            return {"attn_gate": (one,), "ff_gate": (two,), "both gates": (one, two)}

        for form, text in {
            "without tanh": "",
            "with sigmoid": ".sigmoid()",
            "with softsign": "/ (1 + GATE.abs())",
        }.items():
            for where, changes in edits(".tanh()", text).items():
                if "GATE" in text:
                    changes = tuple(
                        Edit(e.old, e.new.replace("GATE", "self.attn_gate" if "attn_gate" in e.old else "self.ff_gate"))
                        for e in changes
                    )
                rows += scoped("gate-not-tanh", f"{where} {form}", peers, *changes, only=GATED)
        for where, changes in {
            "attn_gate": (Edit(attend, attend.replace(" * self.attn_gate.tanh()", "")),),
            "ff_gate": (Edit(feed, feed.replace(" * self.ff_gate.tanh()", "")),),
            "both gates": (
                Edit(attend, attend.replace(" * self.attn_gate.tanh()", "")),
                Edit(feed, feed.replace(" * self.ff_gate.tanh()", "")),
            ),
        }.items():
            rows += scoped("gate-missing", f"{where} not applied", peers, *changes, only=GATED)
        for cause, variant, changes in (
            ("query-residual", "no residual around attention", (Edit(attend, attend.replace(" + x", "")),)),
            ("mlp-residual", "no residual around the feed-forward", (Edit(feed, feed.replace(" + x", "").rstrip()),)),
            ("block-order", "feed-forward before attention", (Edit(f"{attend}\n{feed}", f"{feed}\n{attend}"),)),
            (
                "block-order",
                "attention and feed-forward in parallel",
                (Edit(f"{attend}\n{feed}", f"y = x\n{attend}\nx = x + self.ff(y) * self.ff_gate.tanh()"),),
            ),
            (
                "query-residual",
                "the normed text is added",
                (Edit(attend, attend.replace("+ x", "+ self.attn.norm(x)")),),
            ),
            (
                "mlp-residual",
                "the normed text is added to the feed-forward",
                (Edit(feed, feed.replace("+ x", "+ self.ff[0](x)")),),
            ),
            (
                "norm-after",
                "norm after the feed-forward's residual sum",
                (Edit(feed, "x = self.ff[0](self.ff[3](self.ff[2](self.ff[1](x))) * self.ff_gate.tanh() + x)"),),
            ),
            (
                "norm-after",
                "norm of the feed-forward's output",
                (Edit(feed, "x = self.ff[0](self.ff[3](self.ff[2](self.ff[1](x)))) * self.ff_gate.tanh() + x"),),
            ),
        ):
            rows += scoped(cause, variant, peers, *changes, only=GATED)
    return rows


def _media() -> list[Deviation]:
    rows: list[Deviation] = []
    choice = dict.fromkeys((FP, OF), "mask_op = torch.eq if self.only_attend_immediate_media else torch.ge")
    count = {
        FP: "text_time = media_locations.cumsum(dim = -1) # at each boolean of True, "
        "increment the time counter (relative to media time)",
        OF: "text_time = media_locations.cumsum(dim=-1)",
    }
    time = {FP: "media_time = torch.arange(t, device = x.device) + 1", OF: "media_time = torch.arange(times) + 1"}
    fill = "sim = sim.masked_fill(~text_to_media_mask, -torch.finfo(sim.dtype).max)"
    zeroed = {
        FP: "attn = attn.masked_fill(text_without_media_mask, 0.)",
        OF: "attn = attn.masked_fill((text_time == 0)[:, None, :, None], 0.0)",
    }
    for peers in (FP, OF):
        for variant, edit in {
            "all media before in place of the immediate one, and the reverse": Edit(
                choice[peers], choice[peers].replace("if self", "if not self")
            ),
            "the media token still sees the media before it": Edit(
                count[peers], "text_time = media_locations.cumsum(dim=-1) - media_locations.long()"
            ),
            "media counted from 0": Edit(time[peers], time[peers].replace(" + 1", "")),
            "media counted from 2": Edit(time[peers], time[peers].replace(" + 1", " + 2")),
            "every text sees all media": Edit(fill, "pass"),
            "media after the text in place of those before": Edit(choice[peers], "mask_op = torch.lt"),
            "only media strictly before": Edit(choice[peers], "mask_op = torch.gt"),
            "locations counted from the end": Edit(
                count[peers], "text_time = media_locations.flip(-1).cumsum(dim=-1).flip(-1)"
            ),
        }.items():
            also = ("mask-ignored",) if "every text" in variant else ()
            rows += scoped("media-mask", variant, peers, edit, only=GATED, also=also)
        rows += scoped(
            "mask-inverted",
            "media mask inverted",
            peers,
            Edit(fill, fill.replace("~", "")),
            only=GATED,
            also=("media-mask",),
        )
        keep = Edit(zeroed[peers], "pass")
        rows += scoped(
            "fully-masked-row",
            "text before the first media attends to all media",
            peers,
            keep,
            only="gated_immediate",
            also=("media-mask",),
        )
        softmax = "attn = sim.softmax(dim = -1)" if peers == FP else "attn = sim.softmax(dim=-1)"
        none = Edit(softmax, f"{softmax}\nattn = attn * text_to_media_mask.any(-1, keepdim=True)")
        rows += scoped(
            "fully-masked-row", "text without media gives zero", peers, none, only="gated_all", also=("media-mask",)
        )
    return rows


ROWS: tuple[Deviation, ...] = (*_gates(), *_media())
