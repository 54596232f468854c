"""The models of the cases: a class of another implementation, its configuration, and inputs drawn from a seed.

Every implementation builds its own from this; the weights are drawn by our parameters' paths, so that each process
draws the same, and named for the other implementation by the tables of `perceiver_ref.peers`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perceiver_ref.autograd import tree
from perceiver_ref.models.module import Module
from perceiver_ref.peers import Given, Rebuilt, peer

SEED = 0


@dataclass(frozen=True)
class Workload:
    """A class of a peer with inputs by the peer's names (int64 and float32 arrays, on the host).

    `call` are arguments of the peer's call besides. `ours` are options of our `apply` that change no result, such as
    `chunk`; `labels` are those of the loss in a training step.
    """

    peer: str
    cls: str
    config: Mapping[str, Any]
    inputs: Mapping[str, np.ndarray]
    call: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)
    labels: np.ndarray | None = None

    def rebuild(self, params: Mapping[str, tuple[int, ...]] | None = None) -> Rebuilt:
        """Our model of it; `params` are the shapes of the peer's parameters, where they are known."""
        config = {"config": self.config} if self.peer == "hf" else self.config
        given = Given(config, {name: a.shape for name, a in self.inputs.items()}, params or {}, self.call)
        return peer(self.peer).rebuild(self.cls, given)


def weights(model: Module) -> Any:
    """A tree of float32 parameters with which no part is idle, the same in every process.

    Linear maps keep the size of what goes through; biases and gates are not 0, scales not 1.
    """

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([SEED, zlib.crc32(path.encode())])
        drawn = rng.standard_normal(shape, np.float32)
        if path.rpartition("/")[2] == "weight":
            drawn *= np.float32(1 / math.sqrt(math.prod(shape[:-1])))
        elif path.endswith("gate"):
            drawn += np.float32(1)
        else:
            drawn *= np.float32(0.1)
            drawn += np.float32(path.endswith("scale"))
        return drawn

    spec = model.parameters()
    return tree.unflatten_like(spec, [draw(path, p.shape) for path, p in tree.leaves(spec)])


def cotangent(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What an output is multiplied by for the loss of `forward + backward`: the loss is then of order 1."""
    rng = np.random.default_rng([SEED, 1, zlib.crc32(name.encode())])
    return rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(math.prod(shape)))


def _rng() -> np.random.Generator:
    return np.random.default_rng([SEED, 2])


def imagenet(
    *, batch: int, height: int, latents: int, channels: int, blocks: int, layers: int, classes: int
) -> Workload:
    """Perceiver IO, appendix I, the configuration of deepmind/vision-perceiver-fourier."""
    config = {
        "num_latents": latents,
        "d_latents": channels,
        "d_model": 261,
        "num_blocks": blocks,
        "num_self_attends_per_block": layers,
        "num_self_attention_heads": 8,
        "num_cross_attention_heads": 1,
        "num_labels": classes,
    }
    images = _rng().standard_normal((batch, 3, height, height), np.float32)
    return Workload("hf", "PerceiverForImageClassificationFourier", config, {"inputs": images})


def language(*, batch: int, length: int, embedding: int, latents: int, channels: int, layers: int) -> Workload:
    """Perceiver IO, appendix F, the configuration of deepmind/language-perceiver; the last quarter is padding."""
    config = {
        "num_latents": latents,
        "d_latents": channels,
        "d_model": embedding,
        "num_self_attends_per_block": layers,
        "qk_channels": min(256, channels),
        "v_channels": channels,
        "max_position_embeddings": length,
    }
    ids, labels = _rng().integers(6, 262, (2, batch, length))
    mask = np.broadcast_to(np.arange(length) < length * 3 // 4, (batch, length)).astype(np.int64)
    inputs = {"inputs": ids, "attention_mask": mask}
    return Workload("hf", "PerceiverForMaskedLM", config, inputs, labels=labels)


def flow(*, size: tuple[int, int], latents: int, channels: int, layers: int, heads: int) -> Workload:
    """Perceiver IO, appendix H, the configuration of deepmind/optical-flow-perceiver."""
    config = {
        "num_latents": latents,
        "d_latents": channels,
        "d_model": 322,
        "num_self_attends_per_block": layers,
        "num_self_attention_heads": heads,
        "num_cross_attention_heads": 1,
        "train_size": list(size),
    }
    patches = _rng().standard_normal((1, 2, 27, *size), np.float32)
    return Workload("hf", "PerceiverForOpticalFlow", config, {"inputs": patches}, ours={"chunk": 16384})


def multimodal(
    *, frames: int, height: int, samples: int, latents: int, channels: int, layers: int, outputs: int, parts: int
) -> Workload:
    """Perceiver IO, section 4.3, the configuration of deepmind/multimodal-perceiver, decoded in `parts`."""
    config = {
        "num_latents": latents,
        "d_latents": channels,
        "d_model": 704,
        "num_self_attends_per_block": layers,
        "num_self_attention_heads": 8,
        "num_cross_attention_heads": 1,
        "num_frames": frames,
        "audio_samples_per_frame": samples,
        "image_size": height,
        "output_shape": [1, frames, height, height],
        "output_num_channels": outputs,
        "num_labels": 700,
    }
    rng = _rng()
    inputs: dict[str, np.ndarray] = {
        "inputs.image": rng.standard_normal((1, frames, 3, height, height), np.float32),
        "inputs.audio": rng.standard_normal((1, frames * samples, 1), np.float32),
        "inputs.label": np.zeros((1, 700), np.float32),
        "subsampled_output_points.image": np.arange(frames * height**2 // parts),
        "subsampled_output_points.audio": np.arange(frames * samples // 16 // parts),
    }
    call = {"subsampled_output_points.label": None}
    return Workload("hf", "PerceiverForMultimodalAutoencoding", config, inputs, call)


def perceiver(*, height: int, latents: int, channels: int, depth: int, classes: int, heads: int) -> Workload:
    """The example of perceiver-pytorch's README, with its positions, for square images."""
    config = {
        "num_freq_bands": 6,
        "depth": depth,
        "max_freq": 10.0,
        "num_latents": latents,
        "latent_dim": channels,
        "num_classes": classes,
        "latent_heads": heads,
    }
    images = _rng().standard_normal((1, height, height, 3), np.float32)
    return Workload("lucidrains-perceiver", "Perceiver", config, {"data": images})


def perceiver_io(*, inputs: int, latents: int, outputs: int, depth: int, channels: int) -> Workload:
    """perceiver-pytorch's PerceiverIO, of which every size is free: what scaling is measured on."""
    config = {
        "depth": depth,
        "dim": 64,
        "queries_dim": 64,
        "logits_dim": 32,
        "num_latents": latents,
        "latent_dim": channels,
        "latent_heads": 4,
    }
    rng = _rng()
    arrays = {
        "data": rng.standard_normal((1, inputs, 64), np.float32),
        "queries": rng.standard_normal((1, outputs, 64), np.float32),
    }
    return Workload("lucidrains-perceiver", "PerceiverIO", config, arrays)


def resampler(*, batch: int, features: int, channels: int, depth: int, heads: int, latents: int) -> Workload:
    """Flamingo, section 2.1, in flamingo-pytorch's form."""
    config = {"dim": channels, "depth": depth, "heads": heads, "dim_head": channels // heads, "num_latents": latents}
    x = _rng().standard_normal((batch, 1, features, channels), np.float32)
    return Workload("lucidrains-flamingo", "PerceiverResampler", config, {"x": x})


def gated(*, batch: int, length: int, media: int, tokens: int, channels: int, heads: int) -> Workload:
    """Flamingo, section 2.2, in flamingo-pytorch's form; media come at even distances, the first at the start."""
    config = {"dim": channels, "heads": heads, "dim_head": channels // heads}
    rng = _rng()
    locations = np.zeros((batch, length), bool)
    locations[:, :: -(-length // media)] = True
    inputs: dict[str, np.ndarray] = {
        "x": rng.standard_normal((batch, length, channels), np.float32),
        "media": rng.standard_normal((batch, media, tokens, channels), np.float32),
        "media_locations": locations,
    }
    return Workload("lucidrains-flamingo", "GatedCrossAttentionBlock", config, inputs)


SUBJECTS: dict[str, Callable[..., Workload]] = {
    function.__name__: function
    for function in (imagenet, language, flow, multimodal, perceiver, perceiver_io, resampler, gated)
}


def subject(kind: str, sizes: Mapping[str, Any]) -> Workload:
    """The subject of a case."""
    return SUBJECTS[kind](**sizes)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as nested dicts: "inputs.image" is `{"inputs": {"image": ...}}`."""
    made: dict[str, Any] = {}
    for key, value in flat.items():
        outer, _, inner = key.partition(".")
        if inner:
            made.setdefault(outer, {})[inner] = value
        else:
            made[key] = value
    return made
