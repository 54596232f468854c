"""Live PyTorch ports under names of their own, bound and checked."""

from __future__ import annotations

import pytest
from heavy import own_names

from perceiver_ref.porting.bind.bind import bind
from perceiver_ref.porting.bind.target import to_of
from perceiver_ref.porting.bind.translate import translate
from perceiver_ref.porting.check import check_case

pytestmark = pytest.mark.heavy
torch = pytest.importorskip("torch")


@pytest.mark.parametrize("name", ["fused", "ready", "convs"])
@pytest.mark.parametrize("seed", [0, 1])
def test_own_names(name: str, seed: int) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(seed)
        module, x = own_names.torch_ports(torch)[name]()
        case = own_names.recorded(torch, own_names.varied(torch, module), x)
    finally:
        torch.set_default_dtype(before)
    made = bind(case, to_of(own_names.CONFIG, "the configuration"))
    assert made.verified, made.message
    assert made.left_over == []
    result = check_case(translate(case, made.map))
    assert result.status == "pass"
    assert any(a.kind == "grad_param" for a in result.agreements)
