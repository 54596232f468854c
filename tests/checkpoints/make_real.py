"""Checkpoints as the tools themselves write them, kept small: `python tests/checkpoints/make_real.py` makes `real/`.

Made with torch 2.13, pytorch-lightning 2.6.6, transformers 5.23, safetensors 0.8, flamingo-pytorch 0.1.2, jax 0.10.2,
optax 0.2.8, flax 0.12.8, dm-haiku 0.0.17 and ml_dtypes 0.6. Weights follow the rule of `values`, which tests know.
"""

from __future__ import annotations

import datetime
import enum
import pickle
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from checkpoints.real import FLOAT8, IDEFICS2, PALM, REAL, RESAMPLER, values


@dataclass
class EncoderConfig:
    """A script's hyper-parameters."""

    heads: int = 2


class Mode(enum.Enum):
    """A script's choice."""

    TRAIN = 1


def set_values(model: Any) -> Any:
    import torch

    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(values(name, tuple(p.shape))))
    return model


def pytorch() -> None:
    import torch
    from flamingo_pytorch import PerceiverResampler

    model = set_values(PerceiverResampler(**RESAMPLER))
    state = model.state_dict()
    torch.save({"state_dict": state, "best_acc1": torch.tensor(71.2)}, REAL / "accuracy_beside.pt")
    optimizer = torch.optim.SGD([model.latents], 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6])
    model.latents.grad = torch.ones_like(model.latents)
    optimizer.step()
    set_values(model)
    torch.save(
        {
            "epoch": 3,
            "loss": torch.tensor(0.5),
            "model_state_dict": state,
            "optimizer_state_dict": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "rng": torch.get_rng_state()[:16].clone(),
            "saved": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
            "took": datetime.timedelta(1),
            "labels": {"cat", "dog"},
            "frozen": frozenset({1}),
            "root": 1 + 2j,
            "counts": Counter("aab"),
            "by_class": defaultdict(list, {(0, 1): [2]}),
            "config": EncoderConfig(),
            "mode": Mode.TRAIN,
            "activation": partial(torch.nn.functional.gelu, approximate="tanh"),
            "names": np.array(["a", "b"]),
            "generator": np.random.default_rng(0).bit_generator.state,
        },
        REAL / "training.pt",
    )
    averaged = torch.optim.swa_utils.AveragedModel(model)
    torch.save(averaged.state_dict(), REAL / "averaged.pt")
    numbers = torch.from_numpy(values("x", (2, 3)))
    kinds = {kind: numbers.abs().to(getattr(torch, kind)) for kind in (*FLOAT8, "bfloat16", "complex64", "complex32")}
    kinds |= {
        "conjugate": numbers.to(torch.complex64).conj(),
        "sparse": numbers.to_sparse(),
        "quint8": torch.quantize_per_tensor(numbers, 0.1, 3, torch.quint8),
        "qint8": torch.quantize_per_tensor(numbers, 0.3, -2, torch.qint8),
        "qint32": torch.quantize_per_tensor(numbers, 0.07, 5, torch.qint32),
        "channels": torch.quantize_per_channel(
            numbers, torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2]), 1, torch.qint8
        ),
    }
    torch.save(kinds, REAL / "dtypes.pt")
    plain = {name: kinds[name].float() for name in (*FLOAT8, "bfloat16")}
    plain |= {name: kinds[name].dequantize() for name in ("quint8", "qint8", "qint32", "channels")}
    np.savez(REAL / "dtypes.npz", **{name: tensor.numpy() for name, tensor in plain.items()})


def safetensors() -> None:
    import torch
    from flamingo_pytorch import FlamingoPaLM
    from safetensors.torch import save_file, save_model

    save_model(set_values(FlamingoPaLM(img_encoder=torch.nn.Identity(), **PALM)), str(REAL / "tied.safetensors"))
    numbers = torch.from_numpy(values("x", (2, 3))).abs()
    kinds = {kind: numbers.to(getattr(torch, kind)) for kind in FLOAT8 if not kind.endswith("uz")}
    save_file({**kinds, "complex64": numbers.to(torch.complex64)}, REAL / "dtypes.safetensors")


def lightning() -> None:
    import lightning_of_tests as script  # of the folder that `main` made: its name is in the file
    import pytorch_lightning
    import torch

    model = script.Lit(RESAMPLER)
    keep = pytorch_lightning.callbacks.ModelCheckpoint("checkpoints", monitor="loss")
    early = pytorch_lightning.callbacks.EarlyStopping("loss")
    trainer = pytorch_lightning.Trainer(
        max_epochs=1,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep, early],
    )
    trainer.fit(model, torch.utils.data.DataLoader(torch.ones(2, 1, 3, 4)))
    set_values(model.model)
    trainer.save_checkpoint(REAL / "lightning.ckpt")


LIGHTNING = """
import pytorch_lightning
import torch
from flamingo_pytorch import PerceiverResampler


class Lit(pytorch_lightning.LightningModule):
    def __init__(self, sizes):
        super().__init__()
        self.save_hyperparameters()
        self.model = PerceiverResampler(**sizes)

    def training_step(self, batch, index):
        loss = self.model(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""


def transformers() -> None:
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration

    set_values(Idefics2ForConditionalGeneration(Idefics2Config(**IDEFICS2))).save_pretrained(REAL / "idefics2")


def jax() -> None:
    import haiku
    import jax
    import ml_dtypes
    import optax
    from flax.core import freeze
    from jax import numpy as jnp

    def forward(x: Any) -> Any:
        x = haiku.Linear(3)(x)
        return haiku.BatchNorm(True, True, 0.9)(x, is_training=True)

    params, state = haiku.transform_with_state(forward).init(jax.random.PRNGKey(0), jnp.ones((2, 2)))
    params, state = (
        {m: {n: jnp.asarray(values(f"{m}/{n}", a.shape)) for n, a in names.items()} for m, names in part.items()}
        for part in (params, state)
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 10)))
    training = {
        "params": haiku.data_structures.to_haiku_dict(params),
        "state": state,
        "opt_state": optimizer.init(params),
        "rng": jax.random.PRNGKey(1),
        "step": 7,
    }
    half = {m: {n: a.astype(jnp.bfloat16) for n, a in names.items()} for m, names in params.items()}
    for name, content in {"haiku": training, "flax": freeze({"params": params}), "bfloat16": half}.items():
        (REAL / f"{name}.pkl").write_bytes(pickle.dumps(content))
    arrays = {f"{m}/{n}": np.asarray(a, ml_dtypes.bfloat16) for m, names in params.items() for n, a in names.items()}
    np.savez(REAL / "bfloat16.npz", **arrays)


def main() -> None:
    """Write them all."""
    import os

    REAL.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "lightning_of_tests.py").write_text(LIGHTNING)
        sys.path.insert(0, folder)
        os.chdir(folder)
        for make in (pytorch, safetensors, lightning, transformers, jax):
            make()
    for path in REAL.rglob("*.*"):
        path.chmod(0o644)


if __name__ == "__main__":
    main()
