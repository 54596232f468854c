"""Options and fixtures shared by all tests: `pytest --backend cupy` runs the same suite on a GPU."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # each process has its core: threads of matrix products would only compete
    for _library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from perceiver_ref.autograd import BackendError
from perceiver_ref.autograd import backend as backends

settings.register_profile(
    "default", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", choices=backends.BACKENDS, default="numpy", help="array library to test on")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """The name of the array library under test; skips when it cannot compute here."""
    chosen: str = request.config.getoption("--backend")
    try:
        backends.module(chosen)
    except BackendError as error:
        pytest.skip(str(error))
    return chosen


@pytest.fixture(scope="session")
def xp(backend: str):
    """The array library under test: the module numpy or cupy."""
    return backends.module(backend)
