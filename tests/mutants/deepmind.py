"""A stand-in for DeepMind's Perceiver (JAX) in PyTorch, written from its facts and checked against its cases.

The ImageNet, language and flow models and the bare encoder, with Haiku's names of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import nn

from mutants.deepmind_layers import CrossAttention, Linear, SelfAttention, Table, record


def outer_mask(query_mask: Any, kv_mask: Any) -> Any:
    """(B, Q), (B, K) -> (B, Q, K)."""
    return query_mask[:, :, None] * kv_mask[:, None, :]


class Encoder(nn.Module):
    """Latents attend to the inputs; then the same block of self-attentions, num_blocks times."""

    def __init__(self, haiku: str, kv: int, kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        width = kwargs["num_z_channels"]
        sizes = {"qk": kwargs.get("qk_channels"), "v": kwargs.get("v_channels")}
        self.num_blocks = kwargs["num_blocks"]
        self.latents = Table(f"{haiku}/~/trainable_position_encoding", kwargs["z_index_dim"], width)
        self.cross_attend = CrossAttention(
            f"{haiku}/~/cross_attention",
            width,
            kv,
            heads=kwargs["num_cross_attend_heads"],
            widening=kwargs.get("cross_attend_widening_factor", 1),
            use_query_residual=kwargs.get("use_query_residual", True),
            **sizes,
        )
        names = [f"self_attention_{k}" if k else "self_attention" for k in range(kwargs["num_self_attends_per_block"])]
        self.self_attends = nn.ModuleList(
            SelfAttention(
                f"{haiku}/~/{name}",
                width,
                heads=kwargs["num_self_attend_heads"],
                widening=kwargs.get("self_attend_widening_factor", 1),
                **sizes,
            )
            for name in names
        )

    def forward(self, inputs: Any, input_mask: Any = None) -> Any:
        latents = record("encoder/latents_init", self.latents(len(inputs)))
        mask = None if input_mask is None else outer_mask(torch.ones_like(latents[..., 0]), input_mask)
        z = self.cross_attend(latents, inputs, mask)
        record("encoder/after_cross_attend", z)
        k = 0
        for _ in range(self.num_blocks):
            for self_attend in self.self_attends:
                z = self_attend(z)
                record(f"encoder/after_self_attend_{k:02}", z)
                k += 1
        return record("encoder/output", z)


def build_linear_positions(index_dims: Any) -> Any:
    """DeepMind's grid: float32 whatever the dtype, both ends included."""
    axes = []
    for n in index_dims:
        step = torch.arange(n - 1, dtype=torch.float32) * torch.tensor(np.float32(1) / np.float32(max(n - 1, 1)))
        axis = torch.cat([-1 * (1 - step) + step, torch.ones(1)]) if n > 1 else -torch.ones(1)
        axes.append(axis.to(torch.get_default_dtype()))
    grid = torch.meshgrid(*axes, indexing="ij")
    return torch.stack(grid, dim=-1)


def fourier_features(pos: Any, num_bands: int, max_resolution: Any, concat_pos: bool, sine_only: bool) -> Any:
    """pos (M, axes) -> (M, channels): positions, sines and cosines."""
    bands = [torch.linspace(1.0, res / 2, num_bands) for res in max_resolution]
    freq_bands = torch.stack(bands)
    features = pos[:, :, None] * freq_bands[None]
    features = features.flatten(1)
    if sine_only:
        features = torch.sin(math.pi * features)
    else:
        features = torch.cat([torch.sin(math.pi * features), torch.cos(math.pi * features)], dim=-1)
    if concat_pos:
        features = torch.cat([pos, features], dim=-1)
    return features


class Fourier(nn.Module):
    """The grid's Fourier features."""

    def __init__(self, num_bands: int, max_resolution: Any = None, concat_pos: bool = True, sine_only: bool = False):
        super().__init__()
        self.options = (num_bands, max_resolution, concat_pos, sine_only)

    def width(self, axes: int) -> int:
        bands, _, concat, sine_only = self.options
        return axes * (bands * (1 if sine_only else 2) + concat)

    def forward(self, index_dims: Any, batch: int) -> Any:
        bands, resolution, concat, sine_only = self.options
        pos = build_linear_positions(index_dims)
        pos = pos.reshape(-1, len(index_dims))
        return fourier_features(pos, bands, resolution or index_dims, concat, sine_only).expand(batch, -1, -1)


class ImagePreprocessor(nn.Module):
    """(B, [T,] H, W, C) images to (B, M, C') inputs with their positions."""

    def __init__(self, kwargs: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.prep, scope = kwargs["prep_type"], "image_preprocessor"
        self.kind = kwargs["position_encoding_type"]
        channels, index_dims = shape[-1], shape[-3:-1]
        self.first = None
        if self.prep == "conv1x1":
            self.first = Linear(f"{scope}/~/conv2_d", channels, kwargs["num_channels"], (1, 1))
        elif self.prep == "patches":
            channels *= kwargs["temporal_downsample"]
            self.first = Linear(f"{scope}/patches_linear", channels, kwargs["num_channels"])
        self.scope = f"{scope}/~_build_network_inputs/{self.kind}_position_encoding"
        self.projection = None
        if self.kind == "fourier":
            self.positions = Fourier(**kwargs["fourier_position_encoding_kwargs"])
            width = self.positions.width(len(index_dims))
        else:
            width = kwargs["trainable_position_encoding_kwargs"]["num_channels"]
            self.positions = Table(self.scope, math.prod(index_dims), width)
        if kwargs.get("project_pos_dim", -1) > 0:
            haiku = f"{scope}/~_build_network_inputs/position_encoding_projector/linear"
            self.projection = Linear(haiku, width, kwargs["project_pos_dim"])
            width = kwargs["project_pos_dim"]
        self.width = (kwargs["num_channels"] if self.first else channels) + width

    def forward(self, inputs: Any) -> Any:
        if self.prep == "patches":
            inputs = inputs.permute(0, 2, 3, 1, 4).flatten(3)  # the frames' channels side by side
        if self.first is not None:
            inputs = self.first(inputs)
        index_dims = inputs.shape[1:3]
        inputs = inputs.flatten(1, 2)
        record("image_preprocessor/inputs_without_pos", inputs)
        if self.kind == "fourier":
            pos_enc = self.positions(index_dims, len(inputs))
        else:
            pos_enc = self.positions(len(inputs))
        record(f"{self.scope}/output", pos_enc)
        if self.projection is not None:
            pos_enc = self.projection(pos_enc)
        return record("image_preprocessor/inputs", torch.cat([inputs, pos_enc], dim=-1))


class Decoder(nn.Module):
    """Queries attend to the latents; ClassificationDecoder, FlowDecoder and BasicDecoder."""

    def __init__(self, spec: Mapping[str, Any], latents: int, inputs: int) -> None:
        super().__init__()
        kwargs = spec["kwargs"]
        outer = {"ClassificationDecoder": "classification_decoder/~/", "FlowDecoder": "flow_decoder/~/"}
        self.scope = outer.get(spec["class"], "") + "basic_decoder"
        self.kind = spec["class"]
        rows = {"ClassificationDecoder": 1, "FlowDecoder": None}.get(self.kind, kwargs.get("output_index_dims"))
        width = inputs if rows is None else kwargs["trainable_position_encoding_kwargs"]["num_channels"]
        self.queries = Table(f"{self.scope}/~/trainable_position_encoding", rows, width) if rows else None
        self.decoding_cross_attend = CrossAttention(
            f"{self.scope}/cross_attention",
            width,
            latents,
            qk=kwargs.get("qk_channels"),
            v=kwargs.get("v_channels"),
            heads=kwargs.get("num_heads", 1),
            widening=1,
            use_query_residual=kwargs.get("use_query_residual", False),
        )
        outputs = kwargs.get("num_classes") or kwargs["output_num_channels"]
        self.final = Linear(f"{self.scope}/output", width, outputs) if kwargs.get("final_project", True) else None
        self.shape, self.rescale = kwargs.get("output_image_shape"), kwargs.get("rescale_factor", 100.0)

    def forward(self, inputs: Any, z: Any, query_mask: Any = None) -> Any:
        query = inputs
        if self.queries is not None:
            query = record(f"{self.scope}/~/trainable_position_encoding/output", self.queries(len(z)))
            record(f"{self.scope}/query", query)
        if "/" in self.scope:
            record(f"{self.scope.partition('/')[0]}/query", query)
        mask = None if query_mask is None else outer_mask(query_mask, torch.ones_like(z[..., 0]))
        output = self.decoding_cross_attend(query, z, mask)
        record(f"{self.scope}/cross_attention/output", output)
        if self.final is not None:
            output = record(f"{self.scope}/output", self.final(output))
        if self.kind == "ClassificationDecoder":
            return output[:, 0]
        if self.kind == "FlowDecoder":
            return record("flow_decoder/output", (output / self.rescale).reshape(len(z), *self.shape, -1))
        return output


class Perceiver(nn.Module):
    """Preprocessor, encoder, decoder."""

    def __init__(self, kwargs: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        super().__init__()
        preprocessor = kwargs["input_preprocessor"]
        self.preprocessor = ImagePreprocessor(preprocessor["kwargs"], shape) if preprocessor else None
        width = self.preprocessor.width if self.preprocessor else shape[-1]
        self.encoder = Encoder("perceiver_encoder", width, kwargs["encoder"]["kwargs"])
        self.decoder = Decoder(kwargs["decoder"], kwargs["encoder"]["kwargs"]["num_z_channels"], width)

    def forward(self, inputs: Any, input_mask: Any = None, query_mask: Any = None) -> Any:
        if self.preprocessor is not None:
            inputs = self.preprocessor(inputs)
        z = self.encoder(inputs, input_mask)
        return self.decoder(inputs, z, query_mask)


class Flow(nn.Module):
    """The flow colab: 3 x 3 patches of both frames, the Perceiver, the factor."""

    def __init__(self, config: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.perceiver = Perceiver(config["perceiver"]["kwargs"], (*shape[:-1], 9 * shape[-1]))
        self.factor = config["flow_scale_factor"]

    def forward(self, images: Any) -> Any:
        height, width = images.shape[2:4]
        padded = nnf.pad(images, (0, 0, 1, 1, 1, 1))
        patches = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return self.perceiver(torch.cat(patches, dim=-1)) * self.factor


class Language(nn.Module):
    """The language colab: embedded bytes and positions, the Perceiver, logits by the embedding matrix."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, length = config["embed_dim"], config["max_seq_len"]
        self.embed = Table("embed", config["vocab_size"], width, "embeddings")
        self.positions = Table("trainable_position_encoding", length, width)
        self.perceiver = Perceiver(config["perceiver"]["kwargs"], (length, width))
        self.decoder_bias = nn.Parameter(torch.zeros(config["vocab_size"]))

    def forward(self, inputs: Any, input_mask: Any = None, query_mask: Any = None) -> Any:
        embedded = record("embed/output", self.embed.embeddings[inputs.long()])
        positions = record("trainable_position_encoding/output", self.positions(len(inputs)))
        embedded = embedded + positions
        output = self.perceiver(embedded, input_mask, query_mask)
        logits = output @ self.embed.embeddings.T + self.decoder_bias
        return {"logits": logits, "output_embeddings": output}


def build(config: Mapping[str, Any], shape: tuple[int, ...]) -> nn.Module:
    """The model of a case's `config` for inputs of this shape."""
    if "flow_scale_factor" in config:
        return Flow(config, shape)
    if "vocab_size" in config:
        return Language(config)
    if config["class"] == "PerceiverEncoder":
        return Encoder("perceiver_encoder", shape[-1], config["kwargs"])
    return Perceiver(config["kwargs"], shape)


def named_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters by Haiku's names."""
    named: dict[str, torch.Tensor] = {}
    for part in module.modules():
        for leaf, parameter in part.named_parameters(recurse=False):
            named[f"{part.haiku}/{leaf}" if hasattr(part, "haiku") else "embedding_decoder/bias"] = parameter
    return named
