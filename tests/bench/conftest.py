"""The package bench of the clone, which nothing installs."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "bench"

if "bench" not in sys.modules or not getattr(sys.modules["bench"], "__file__", None):
    _spec = spec_from_file_location("bench", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["bench"] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["bench"])


@pytest.fixture
def result() -> dict:
    """A run of three cases as JSON holds it, with invented figures."""

    def row(case: str, name: str, implementation: str, **figures: object) -> dict:
        return {"case": case, "pass": name, "implementation": implementation, "quick": False, **figures}

    def timed(seconds: float, peak: int, **more: object) -> dict:
        made = {"seconds": seconds, "low": seconds * 0.9, "high": seconds * 1.1, "rounds": 3, "peak": peak}
        return {**made, "total": peak + 1000, "flops": 10**9, **more}

    rows = [
        row("imagenet-1", "forward", "ours", **timed(2.0, 300 << 20, share=0.75)),
        row("imagenet-1", "forward", "transformers", **timed(2.5, 900 << 20, ratio=0.81, memory_ratio=1 / 3)),
        row("imagenet-1", "forward", "jax", missing="jax is not installed"),
        row("imagenet-1", "forward + backward", "ours", **timed(6.0, 800 << 20)),
        row("imagenet-1", "forward + backward", "checkpointed", **timed(9.0, 200 << 20, ratio=0.67)),
        row("imagenet-1", "forward + backward", "transformers", **timed(8.0, 1 << 30, ratio=0.75)),
    ]
    for size in (262144, 524288, 1048576):
        rows.append(row(f"scaling-M-{size}", "forward", "ours", **timed(size / 1e6, size * 10)))
    from bench.scaling import exponents

    return {
        "version": 1,
        "backend": "numpy",
        "tf32": False,
        "machine": {"machine": "a machine, 2 cores", "threads": "2", "tf32": "does not apply", "numpy": "2.4.6"},
        "date": "2026-01-01",
        "rows": rows,
        "exponents": exponents(rows),
    }
