"""docs/make coverage: the page of an audit has every score, every cell and every reason of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kill_matrix
import pytest

from perceiver_ref.porting.deviations import CAUSES
from perceiver_ref.porting.gradients.backward import GRADIENT_CAUSES


def model(name: str, told: int, missed: int, **more: Any) -> dict[str, Any]:
    """What a report says of a model with one cause of each kind."""
    return {
        "model": name,
        "told": told,
        "applicable": told + missed,
        "cases": [{"case": f"{name}/plain"}, {"case": f"{name}/single"}],
        "causes": {
            "activation": {"told": told - 1, "applicable": told - 1 + missed},
            "gradient-sign": {"told": 1, "applicable": 1},
        },
        "missed": [{"cause": "activation", "variant": f"v{i}", "tolerances": 3.0} for i in range(missed)],
        "equal": [{"cause": "bias-missing", "variant": "bias of keys", "reason": "because"}],
        "untried": [],
        "same": [],
        "cover": [{"case": f"{name}/plain", "adds": told}],
        **more,
    }


def lines(*models: dict[str, Any]) -> list[str]:
    return kill_matrix.page(models).splitlines()


def test_a_score_is_100_only_where_nothing_is_missed() -> None:
    made = lines(model("good", 4000, 0), model("bad", 4000, 1))
    assert "| good | 2 | 4000 | 4000 | 0 | 1 | 100 % |" in made
    assert "| bad | 2 | 4000 | 4001 | 1 | 1 | 99.9 % |" in made
    assert "| all | 4 | 8000 | 8001 | 1 | 2 | 99.9 % |" in made
    assert "| bad | activation: v0 | 3 |" in made


def test_the_matrix_has_models_and_causes_of_outputs_and_of_gradients() -> None:
    made = lines(model("good", 5, 0), model("bad", 5, 2), model("operations/softmax", 3, 0))
    assert "| cause | good | bad |" in made
    assert "| activation | 4 | 4 of 6 |" in made
    assert "| gradient-sign | 1 | 1 |" in made
    assert "| cause | softmax |" in made
    assert {"activation", "gradient-sign"} <= {*CAUSES, *GRADIENT_CAUSES}


def test_reasons_and_names_that_are_not_certain_are_there() -> None:
    pair = [{"cause": "norm-missing", "variant": "a"}, {"cause": "norm-after", "variant": "b"}]
    made = lines(model("good", 5, 0, same=[{"reason": "no sum", "deviations": pair}]))
    assert "| good | bias-missing (1) | because |" in made
    assert "| norm-missing, norm-after | 1 | good | no sum |" in made
    assert "| good | plain (5) |" in made


def test_the_command_makes_the_page_of_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, page = tmp_path / "report.json", tmp_path / "page.md"
    report.write_text(json.dumps({"version": 1, "audit": {"models": [model("good", 5, 0)]}}))
    assert kill_matrix.main(["--reports", str(report), "--page", str(page)]) == 0
    assert page.read_text() == kill_matrix.page([model("good", 5, 0)])
    report.write_text("{}")
    assert kill_matrix.main(["--reports", str(report), "--page", str(page)]) == 2
    assert "coverage: error" in capsys.readouterr().err
