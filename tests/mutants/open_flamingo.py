"""A stand-in for open_flamingo's resampler and gated cross-attention, which its package cannot be installed for here:
the facts of its two classes (shapes, names, order of operations), written anew and checked against its cases."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def feed_forward(dim: int, mult: int) -> nn.Sequential:
    """Norm, widening linear map, GELU, linear map; no biases."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, dim * mult, bias=False), nn.GELU(), nn.Linear(dim * mult, dim, bias=False)
    )


def split_heads(x: Any, heads: int) -> Any:
    """(..., N, heads * D) -> (..., heads, N, D)."""
    x = x.unflatten(-1, (heads, -1))
    return x.transpose(-2, -3)


def merge_heads(x: Any) -> Any:
    """(..., heads, N, D) -> (..., N, heads * D)."""
    x = x.transpose(-2, -3)
    return x.flatten(-2)


class PerceiverAttention(nn.Module):
    """Latents attend to media and latents."""

    def __init__(self, dim: int, dim_head: int, heads: int) -> None:
        super().__init__()
        self.scale = dim_head**-0.5
        self.heads = heads
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim_head * heads, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim_head * heads, bias=False)
        self.to_out = nn.Linear(dim_head * heads, dim, bias=False)

    def forward(self, x: Any, latents: Any) -> Any:
        x = self.norm_media(x)
        latents = self.norm_latents(latents)
        q = self.to_q(latents)
        kv_input = torch.cat((x, latents), dim=-2)
        k, v = self.to_kv(kv_input).chunk(2, dim=-1)
        q, k, v = (split_heads(t, self.heads) for t in (q, k, v))
        q = q * self.scale
        sim = q @ k.transpose(-1, -2)
        attn = sim.softmax(dim=-1)
        out = attn @ v
        out = merge_heads(out)
        return self.to_out(out)


class PerceiverResampler(nn.Module):
    """x (B, T, F, V, D) -> (B, T, N, D)."""

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        dim_head: int = 64,
        heads: int = 8,
        num_latents: int = 64,
        max_num_media: int | None = None,
        max_num_frames: int | None = None,
        ff_mult: int = 4,
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(num_latents, dim))
        self.frame_embs = nn.Parameter(torch.randn(max_num_frames, dim)) if max_num_frames else None
        self.media_time_embs = nn.Parameter(torch.randn(max_num_media, 1, dim)) if max_num_media else None
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, dim_head, heads), feed_forward(dim, ff_mult)]) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Any) -> Any:
        times, frames = x.shape[1:3]
        if self.frame_embs is not None:
            x = x + self.frame_embs[:frames, None, :]
        x = x.flatten(2, 3)
        if self.media_time_embs is not None:
            x = x + self.media_time_embs[:times]
        latents = self.latents.expand(*x.shape[:2], -1, -1)
        for attn, ff in self.layers:
            latents = attn(x, latents) + latents
            latents = ff(latents) + latents
        return self.norm(latents)


class MaskedCrossAttention(nn.Module):
    """Text attends to the media that come before it."""

    def __init__(self, dim: int, dim_visual: int, dim_head: int, heads: int, only_attend_immediate_media: bool) -> None:
        super().__init__()
        self.scale = dim_head**-0.5
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim_head * heads, bias=False)
        self.to_kv = nn.Linear(dim_visual, 2 * dim_head * heads, bias=False)
        self.to_out = nn.Linear(dim_head * heads, dim, bias=False)
        self.only_attend_immediate_media = only_attend_immediate_media

    def forward(self, x: Any, media: Any, media_locations: Any) -> Any:
        x = self.norm(x)
        q = self.to_q(x)
        times, tokens = media.shape[1:3]
        media = media.flatten(1, 2)
        k, v = self.to_kv(media).chunk(2, dim=-1)
        q, k, v = (split_heads(t, self.heads) for t in (q, k, v))
        q = q * self.scale
        sim = q @ k.transpose(-1, -2)
        text_time = media_locations.cumsum(dim=-1)
        media_time = torch.arange(times) + 1
        mask_op = torch.eq if self.only_attend_immediate_media else torch.ge
        text_to_media_mask = mask_op(text_time[:, None, :, None], media_time.repeat_interleave(tokens))
        sim = sim.masked_fill(~text_to_media_mask, -torch.finfo(sim.dtype).max)
        attn = sim.softmax(dim=-1)
        if self.only_attend_immediate_media:
            attn = attn.masked_fill((text_time == 0)[:, None, :, None], 0.0)
        out = attn @ v
        out = merge_heads(out)
        return self.to_out(out)


class GatedCrossAttentionBlock(nn.Module):
    """Gated cross-attention to media, then a gated feed-forward."""

    def __init__(
        self,
        *,
        dim: int,
        dim_visual: int,
        dim_head: int = 64,
        heads: int = 8,
        ff_mult: int = 4,
        only_attend_immediate_media: bool = True,
    ) -> None:
        super().__init__()
        self.attn = MaskedCrossAttention(dim, dim_visual, dim_head, heads, only_attend_immediate_media)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ff = feed_forward(dim, ff_mult)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Any, media: Any, media_locations: Any) -> Any:
        x = self.attn(x, media, media_locations) * self.attn_gate.tanh() + x
        x = self.ff(x) * self.ff_gate.tanh() + x
        return x
