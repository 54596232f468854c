"""A small model trained by as many processes as start this, as a script.

    mpiexec -n 2 python processes.py DIR [--resume] [--stop STEP] [--backend cupy] [--epochs N] [--float64]

Prints the losses of all steps, as JSON, from the first process.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import perceiver_ref as pr
from perceiver_ref.models.decoder import classification_decoder
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.training import fit
from perceiver_ref.training.distributed import reducer


def main(arguments: list[str] | None = None) -> dict:
    """What is printed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop", type=int, default=0)
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--fail", type=int, default=-1, help="the rank that fails in the sixth step")
    given = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(37, 5, 7)).astype(np.float64 if given.float64 else np.float32)
    y = (x[:, 0].sum(-1) > 0).astype(int)
    model = pr.PerceiverIO(Encoder(7, 3, 10, layers=1, self_heads=5), decoder=classification_decoder(10, 2))
    processes = reducer(None, given.backend)
    made = iter(range(1000))

    def augment(batch: dict, rng: np.random.Generator) -> dict:
        step = next(made)
        if step == 5 and given.fail == processes.rank:
            raise pr.InputError("this one fails")
        if given.stop and step + 1 == given.stop and processes.rank == 0:  # one of them is told
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        return {**batch, "inputs": batch["inputs"] + rng.normal(size=batch["inputs"].shape).astype(x.dtype)}

    found = fit(
        model,
        train=(x, y),
        validation=0.2,
        epochs=given.epochs,
        params=model.init(3, dtype=np.float64) if given.float64 else None,
        batch=8,
        seed=3,
        log_every=1,
        save_every=3,
        quiet=True,
        out=given.out,
        resume=given.resume,
        augment=augment,
        backend=given.backend,
        accumulate=given.accumulate,
        distributed=processes,
        average=0.9,
    )
    losses = [line["loss"] for line in found.history]
    made = {"size": processes.size, "losses": losses, "evaluation": found.evaluation}
    if processes.rank == 0:
        print(json.dumps(made))
    return made


if __name__ == "__main__":
    main()
