"""Random models as they are, in every precision: `diagnose` names no deviation (tests/ on the path; needs `peers`).

python -m heavy.never_accused --count 1000 --jobs 16
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

DTYPES = ("float64", "float32", "bfloat16", "float16")
FORMS = (*DTYPES, "bfloat16, stored as float64", "float16, stored as float64")
"""What is run, and whether the case says so: every seed one, in turn"""


class Said(NamedTuple):
    """What is said of one run; `causes` must be empty. `model` is empty where the peer does not run in the format."""

    seed: int
    form: str
    model: str
    verdict: str = ""
    causes: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    seconds: float = 0.0


def judged(seed: int) -> Said:
    """One random model in one of the formats, with its traced points or without."""
    import torch
    from heavy import random_models
    from mutants import make

    from perceiver_ref.porting.diagnosis.diagnose import diagnose_file

    torch.set_num_threads(1)
    form = FORMS[seed % len(FORMS)]
    dtype, _, stored = form.partition(",")
    example = random_models.instance(seed)
    try:
        run = example.right if dtype == "float64" else example.lowered(dtype)
    except RuntimeError:  # transformers' multimodal model mixes in float32 and does not run in half precision
        return Said(seed, form, "")
    if not (example.right.finite and run.finite and all(np.isfinite(a).all() for a in run.trace.values())):
        return Said(seed, form, "")
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        make.write(path, example, run, traced=seed // len(FORMS) % 2 == 0, dtype="float64" if stored else dtype)
        found = diagnose_file(path)
    variants = tuple(cause.variant for cause in found.explanation)
    model = f"{example.model.peer}/{example.model.name}"
    return Said(seed, form, model, found.verdict, tuple(found.causes), variants, time.perf_counter() - began)


def every(count: int, jobs: int, first: int = 0) -> Iterator[Said]:
    """So many runs, from this seed on; those that could not be made are left out."""
    seeds = iter(range(first, first + 100 * count))
    with ProcessPoolExecutor(jobs) as pool:
        while count > 0:
            for said in pool.map(judged, [next(seeds) for _ in range(count)]):
                if said.model:
                    count -= 1
                    yield said


def main() -> None:
    """The command; exit code 1 where a correct model is accused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes of the pool
    made, accused = Counter[tuple[str, str]](), 0
    slowest = 0.0
    for said in every(options.count, options.jobs, options.seed):
        made[said.form, said.verdict] += 1
        slowest = max(slowest, said.seconds)
        wrong = bool(said.causes) or said.verdict not in ("match", "rounding")
        accused += wrong
        if wrong:
            print(f"seed {said.seed}, {said.model} in {said.form}: {said.verdict} {said.variants}", flush=True)
    for (form, verdict), number in sorted(made.items()):
        print(f"{form:<30} {verdict:<12} {number:>5}")
    print(f"{accused} of {sum(made.values())} accused or unexplained; {slowest:.0f} s at most for one")
    raise SystemExit(1 if accused else 0)


if __name__ == "__main__":
    main()
