"""The adapter for transformers that VECTORS.md shows, run by the pytest plugin on exported cases."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli.command import CONFIG

from perceiver_ref.cli import main

pytest_plugins = ["pytester"]
DOCUMENT = Path(__file__).parents[2] / "docs" / "VECTORS.md"


@pytest.mark.heavy
def test_the_adapter_of_the_document_passes_and_a_wrong_one_fails(pytester: pytest.Pytester, monkeypatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (code,) = re.findall(r"<!-- adapter -->\n```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    pytester.makepyfile(
        my_adapter=code, wrong_adapter=code.replace("{**case.meta", '{"hidden_act": "relu", **case.meta')
    )
    config = pytester.path / "config.json"
    config.write_text(json.dumps(CONFIG))
    assert main(["export", str(config), "--peer", "hf", "--out", str(pytester.path / "vectors")]) == 0
    count = len(json.loads((pytester.path / "vectors/index.json").read_text())["cases"])
    options = ("-p", "perceiver_ref.pytest_plugin", "-p", "no:cacheprovider", "--perceiver-vectors", "vectors")
    right = pytester.runpytest_subprocess(*options, "--perceiver-adapter", "my_adapter:run")
    right.assert_outcomes(passed=count)
    wrong = pytester.runpytest_subprocess(*options, "--perceiver-adapter", "wrong_adapter:run", "-k", "plain")
    wrong.assert_outcomes(failed=1, deselected=count - 1)
