"""Running the command in this process or in its own, and the small files that it is run on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import random_parameters

from perceiver_ref.autograd import tree
from perceiver_ref.cli import main
from perceiver_ref.peers import Given, Rebuilt, peer
from perceiver_ref.weights.formats.npz import write_npz

CONFIG = {
    "architectures": ["PerceiverForMaskedLM"],
    "model_type": "perceiver",
    "num_latents": 3,
    "d_latents": 8,
    "d_model": 8,
    "num_blocks": 2,
    "num_self_attends_per_block": 1,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 2,
    "qk_channels": 8,
    "v_channels": 8,
    "vocab_size": 11,
    "max_position_embeddings": 7,
}
IMAGE_CONFIG = {
    "architectures": ["PerceiverForImageClassificationFourier"],
    "num_latents": 3,
    "d_latents": 16,
    "num_blocks": 1,
    "num_self_attends_per_block": 1,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 1,
    "num_labels": 4,
}


@dataclass
class Finished:
    """What a run of the command left: exit code and both streams."""

    code: int
    out: str
    err: str

    def assert_refused(self, *texts: str) -> None:
        """Exit code 2 and exactly one line on stderr, no traceback, with all of these texts."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert len(self.err.splitlines()) == 1, self.err
        assert self.err.startswith("perceiver-ref")
        assert "error: " in self.err
        assert "Traceback" not in self.out + self.err
        for text in texts:
            assert text in self.err


def invoke(capsys: pytest.CaptureFixture[str], *arguments: object) -> Finished:
    """Run `perceiver-ref` in this process."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    return Finished(code, *capsys.readouterr())


def execute(*arguments: object, **options: Any) -> Finished:
    """Run `python -m perceiver_ref` in a process of its own, warnings being errors."""
    command = [sys.executable, "-W", "error", "-m", "perceiver_ref", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    return Finished(done.returncode, done.stdout, done.stderr)


def rebuilt(config: dict[str, Any] = CONFIG) -> Rebuilt:
    return peer("hf").rebuild(config["architectures"][0], Given(config))


def weights(config: dict[str, Any] = CONFIG, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    """Random parameters by transformers' names."""
    model = rebuilt(config)
    arrays = by_their_names(model, random_parameters(model.model))
    return {name: np.ascontiguousarray(array, dtype) for name, array in arrays.items()}


def by_their_names(model: Rebuilt, values: Any) -> dict[str, np.ndarray]:
    """Parameters or gradients of a model without shared or cut arrays, in transformers' layout."""
    flat = tree.flatten(values)
    return {b.name: b.view(flat[b.path]) for b in model.bindings}  # a transposition is its own inverse


@dataclass
class Files:
    """The arguments of `run`, in a folder."""

    folder: Path

    @property
    def arguments(self) -> list[object]:
        parts = {"--config": "config.json", "--weights": "weights.npz", "--inputs": "inputs.npz", "--output": "out.npz"}
        return ["run", "--peer", "hf", *(x for key, name in parts.items() for x in (key, self.folder / name))]

    def replace(self, option: str, value: object) -> list[object]:
        arguments = self.arguments
        arguments[arguments.index(option) + 1] = value
        return arguments

    def listing(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def prepare(folder: Path, config: dict[str, Any] = CONFIG, dtype: Any = np.float64, **inputs: np.ndarray) -> Files:
    """Write configuration, weights and inputs (default: two rows of tokens)."""
    (folder / "config.json").write_text(json.dumps(config))
    write_npz(folder / "weights.npz", weights(config, dtype))
    write_npz(folder / "inputs.npz", inputs or {"inputs": np.array([[1, 2, 3, 10], [0, 5, 5, 4]])})
    return Files(folder)
