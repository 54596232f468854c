"""The table of implementations: the module whose `build` makes one, and where it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from perceiver_ref.errors import one_of

from .base import Built, Spec
from .case import BenchCase
from .cases import case


@dataclass(frozen=True)
class Implementation:
    """`label` is for the table.

    `compiled`: only measured on a GPU unless asked for, since compiling takes minutes; `gpu`: there is none elsewhere.
    """

    module: str
    label: str
    compiled: bool = False
    gpu: bool = False
    torch: bool = False


IMPLEMENTATIONS: dict[str, Implementation] = {
    "ours": Implementation("ours", "perceiver-ref"),
    "plain": Implementation("ours", "perceiver-ref, plain kernels"),
    "checkpointed": Implementation("ours", "perceiver-ref, checkpointed"),
    "recorded": Implementation("ours", "perceiver-ref, recorded", gpu=True),
    "recorded 3xtf32": Implementation("ours", "perceiver-ref, recorded, products of 3xtf32", gpu=True),
    **{
        name: Implementation("torch_peers", name, torch=True)
        for name in ("transformers", "perceiver-pytorch", "flamingo-pytorch")
    },
    **{
        f"{name} compiled": Implementation("torch_peers", f"{name}, torch.compile", compiled=True, torch=True)
        for name in ("transformers", "perceiver-pytorch", "flamingo-pytorch")
    },
    "jax": Implementation("jax_peer", "jax.numpy under jit"),
    "product": Implementation("product", "matrix product"),
    "ours elementary": Implementation("engines", "perceiver-ref, elementary ops"),
    "autograd": Implementation("engines", "HIPS autograd"),
    "mygrad": Implementation("engines", "MyGrad"),
    "ours model": Implementation("imports", "perceiver-ref and a model"),
    "python": Implementation("imports", "Python alone"),
    "torch": Implementation("imports", "PyTorch"),
}
_OF_KIND = {"command": "commands", "digits": "digits", "engine": "engines", "import": "imports"}
"""Kind of a case -> the module of all its implementations."""


def build(spec: Spec) -> Built:
    """One implementation of a case, ready to run; `MissingError` where it cannot."""
    if spec.implementation not in IMPLEMENTATIONS:
        raise one_of("implementation", spec.implementation, IMPLEMENTATIONS)
    row = case(spec.case)
    module = _OF_KIND.get(row.kind, IMPLEMENTATIONS[spec.implementation].module)
    if spec.implementation == "product":
        module = "product"
    made: Built = import_module(f".{module}", __package__).build(spec)
    return made


def measured(row: BenchCase, backend: str, only: list[str] | None, quick: bool) -> list[str]:
    """The implementations of a case to measure: ours first, then what `only` names or belongs on this backend."""
    names = list(row.implementations)
    if quick and row.sizes(True).get("modules"):
        names = list(row.sizes(True)["modules"])
    if only is not None:
        names = [name for name in names if name in only or name == "ours"]
    elif backend == "numpy":
        names = [name for name in names if not IMPLEMENTATIONS[name].compiled]
    return [name for name in names if backend == "cupy" or not IMPLEMENTATIONS[name].gpu]
