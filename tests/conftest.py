"""Options and fixtures shared by all tests: `pytest --backend cupy` runs the same suite on a GPU."""

from __future__ import annotations

import os
import re
import signal
from importlib.metadata import entry_points

if "PYTEST_XDIST_WORKER" in os.environ:  # each process has its core: threads of matrix products would only compete
    for _library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what runs in its background so
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


def pytest_configure(config: pytest.Config) -> None:
    os.environ["PERCEIVER_REF_TESTED"] = config.getoption("--backend")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """While a test runs, a warning is an error, but for those of other plugins of pytest, and what -W says."""
    others = {point.module.partition(".")[0] for point in entry_points(group="pytest11")} - {"perceiver_ref"}
    filters = ["error", *(rf"default:::{re.escape(name)}(\.|$)" for name in sorted(others))]
    strict = pytest.mark.filterwarnings(*filters, *(config.getoption("pythonwarnings") or ()))
    for item in items:
        item.add_marker(strict, append=False)  # what a test itself says of warnings comes after it


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
