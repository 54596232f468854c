"""The port in docs/porting: it reproduces exported cases point by point, and what is wrong in it is found and named."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from docs.blocks import ROOT, blocks

from perceiver_ref.cli import main
from perceiver_ref.porting import check_file, diagnose_file
from perceiver_ref.porting.cases import expanded, read_case
from perceiver_ref.porting.cases.generator import KINDS, made
from perceiver_ref.porting.cases.samples import COLUMNS
from perceiver_ref.porting.export.make import ExportOptions, make
from perceiver_ref.porting.export.operations import OPERATIONS
from perceiver_ref.porting.export.write import write_folder
from perceiver_ref.weights.formats.safetensors_file import write_safetensors

PORT = ROOT / "docs" / "porting"
SOURCE = (PORT / "encoder.c").read_text(encoding="utf-8")
PORTED = ("layer_norm", "linear", "gelu_erf", "gelu_tanh", "attention", "attention_weights")
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")

PLAIN = {"inputs": 6, "latents": 4, "channels": 8, "blocks": 2, "layers": 1, "self_heads": 2}
OTHER = {
    **PLAIN,
    "blocks": 3,
    "layers": 2,
    "cross_heads": 2,
    "self_heads": 4,
    "qk_channels": 4,
    "v_channels": 8,
    "cross_attends": 3,
    "shared_blocks": "none",
    "cross_widening": 2,
    "self_widening": 3,
    "query_residual": False,
    "attend_in": "q",
    "conventions": {
        "type": "Conventions",
        "activation": "gelu_erf",
        "masked_rows": "uniform",
        "grid": "compute",
        "norm_eps": 1e-3,
        "qkv_bias": False,
    },
}

MISTAKES = {
    "attention-scale": (": 1 / sqrt(d);", ": 1 / sqrt(d * q.shape[1]);", "encoder.blocks.0.0.attention.weights"),
    "layer-norm-eps": (
        "(real)sqrt(variance + eps)",
        "(real)sqrt(variance + 1e-6)",
        "encoder.cross_attention.query_norm",
    ),
    "activation": ("? gelu_erf : gelu_tanh", "? gelu_tanh : gelu_erf", "encoder.cross_attention.mlp.activation"),
    "head-layout": (
        "c = i % d, h = i / d % heads",
        "c = i / heads % d, h = i % heads",
        "encoder.blocks.0.0.attention.weights",
    ),
    "mlp-residual": ('add(x, point(scope, "mlp", ', '(point(scope, "mlp", ', "encoder.cross_attention"),
    "mask-ignored": (
        "mask.shape[3] = mask.shape[1]",
        "mask.values = NULL",
        "encoder.cross_attention.attention.weights",
    ),
}
"""Mistake -> what of the source becomes what, and the first point that then differs."""
NAMED = ("layer-norm-eps",)
"""Those that `diagnose` is asked for here; the page has another, and more would only take longer."""

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, cc")


def compiled(folder: Path, source: str = SOURCE, *options: str) -> Path:
    """The program; fails with what the compiler says."""
    (folder / "port.c").write_text(source, encoding="utf-8")
    program = folder / "port"
    command = ["cc", "-std=c99", "-O0", *options, f"-I{PORT}", "-o", str(program), str(folder / "port.c"), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def execute(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, check=False)


def export(folder: Path, encoder: dict[str, Any], *options: str) -> list[Path]:
    """The `.safetensors` files of all cases of an encoder, each with an `.npz` beside it."""
    config = folder / "encoder.json"
    config.write_text(json.dumps({"type": "PerceiverIO", "encoder": {"type": "Encoder", **encoder}}))
    made = ["--out", str(folder / "vectors"), "--safetensors", "--no-gradients"]
    assert main(["export", str(config), "--inputs", f"5x{encoder['inputs']}", *made, *options]) == 0
    return sorted((folder / "vectors").rglob("*.safetensors"))


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("port"), SOURCE, *STRICT)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.stem: path for path in export(tmp_path_factory.mktemp("plain"), PLAIN)}


@needs_cc
def test_operations(port: Path, tmp_path: Path) -> None:
    chosen = [o for o in OPERATIONS if o.operation in PORTED]
    assert {o.operation for o in chosen} == set(PORTED)
    cases = (make(o.subject, o.row, ExportOptions(gradients=False)) for o in chosen)
    write_folder(tmp_path / "operations", cases, safetensors=True)
    for path in (tmp_path / "operations").rglob("*.safetensors"):
        done = execute(port, path)
        assert (done.returncode, done.stderr) == (0, ""), path.stem + done.stdout
        assert done.stdout.startswith("0 of 1 points differ")


@needs_cc
@pytest.mark.parametrize(("encoder", "dtype"), [(OTHER, "float64"), (PLAIN, "float32")])
def test_every_point_of_every_case(port: Path, tmp_path: Path, encoder: dict[str, Any], dtype: str) -> None:
    paths = export(tmp_path, encoder, "--dtype", dtype, "--seed", "3")
    assert {"plain", "masked-row", "mask-holes", "single", "large-logits"} <= {path.stem for path in paths}
    for path in paths:
        points = len(read_case(path.with_suffix(".npz")).trace) + 1
        done = execute(port, path, tmp_path / "answer.safetensors")
        assert (done.returncode, done.stderr) == (0, ""), path.stem + done.stdout
        assert done.stdout.startswith(f"0 of {points} points differ")
    assert check_file(tmp_path / "answer.safetensors").status == "pass"


@needs_cc
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_where_it_is_and_named(mistake: str, plain: dict[str, Path], tmp_path: Path) -> None:
    right, wrong, first = MISTAKES[mistake]
    assert SOURCE.count(right) == 1
    program = compiled(tmp_path, SOURCE.replace(right, wrong))
    done = execute(program, plain["padding"], tmp_path / "answer.safetensors")
    assert done.returncode == 1
    assert done.stdout.startswith(f"trace/{first}: error ")
    if mistake in NAMED:
        found = diagnose_file(tmp_path / "answer.safetensors")
        assert (found.verdict, found.first_divergence) == ("deviation", first)
        assert [cause.cause for cause in found.explanation] == [mistake]


@needs_cc
def test_probes_are_read_and_mistakes_are_seen_in_them(port: Path, tmp_path: Path) -> None:
    probe = ("--probe", "--seed", "9")
    paths = export(tmp_path, OTHER, *probe)
    done = execute(port, *paths)
    points = sum(key.startswith(("trace/", "output/")) for key in read_case(paths[0].with_suffix(".npz")).samples)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.startswith(f"0 of {points} points differ in their samples")
    right, wrong, _ = MISTAKES["layer-norm-eps"]
    program = compiled(tmp_path, SOURCE.replace(right, wrong))
    done = execute(program, *paths)
    assert done.returncode == 1
    assert done.stdout.startswith("trace/encoder.cross_attention.0.query_norm: error ")


@needs_cc
def test_a_probe_of_given_weights_reads_them(port: Path, tmp_path: Path) -> None:
    (made,) = export(tmp_path, PLAIN, "--probe")
    params = expanded(read_case(made.with_suffix(".npz"))).params
    write_safetensors(tmp_path / "weights.safetensors", {n: np.sin(a) for n, a in params.items()}, {})
    out = ["--out", str(tmp_path / "given"), "--weights", str(tmp_path / "weights.safetensors"), "--safetensors"]
    assert main(["export", str(tmp_path / "encoder.json"), "--inputs", "5x6", "--probe", *out]) == 0
    (path,) = (tmp_path / "given").rglob("*.safetensors")
    done = execute(port, path, tmp_path / "weights.safetensors")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert execute(port, path, made).returncode == 2  # which has no weights
    assert "of given weights" in execute(port, path).stderr


@needs_cc
def test_c_makes_the_arrays_of_a_probe_bit_for_bit(tmp_path: Path) -> None:
    specs = {
        kind: {"shape": [3, 7, 2], "kind": kind, "exponent": 9, "modulus": 13, "value": -2.5, "dtype": "float64"}
        for kind in KINDS
    }
    (tmp_path / "specs.h").write_text(
        "".join(f"{{{json.dumps(f'input/{kind}')}, {json.dumps(json.dumps(spec))}}},\n" for kind, spec in specs.items())
    )
    source = """
    #include "vectors.h"
    #include "probes.h"
    static const char *specs[][2] = {
    #include "specs.h"
    };
    int main(void) {
        for (size_t k = 0; k < sizeof specs / sizeof *specs; k++) {
            Array x = made(UINT64_C(9007199254740993), specs[k][0], specs[k][1]);
            for (long i = 0; i < size(x); i++) printf("%a ", (double)x.values[i]);
            puts("");
        }
        return 0;
    }
    """
    program = compiled(tmp_path, source, "-Wno-unused-function", f"-I{tmp_path}")
    lines = execute(program).stdout.splitlines()
    assert len(lines) == len(KINDS)
    for line, (kind, spec) in zip(lines, specs.items()):
        found = np.reshape([float.fromhex(word) for word in line.split()], spec["shape"])
        np.testing.assert_array_equal(found, made(f"input/{kind}", spec, 9007199254740993, "float64"))


@needs_cc
def test_what_is_not_ported_is_refused(port: Path, tmp_path: Path) -> None:
    gated = {**OTHER, "conventions": {**OTHER["conventions"], "gated_mlp": True}}
    done = execute(port, export(tmp_path, gated, "--cases", "plain")[0])
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "encoder: error: the gated MLP is not ported\n")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    done = execute(port, tmp_path / "cut.safetensors")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("cut.safetensors is cut off\n")


def test_the_page_of_the_format_shows_the_source_of_probes() -> None:
    code = (PORT / "probes.h").read_text(encoding="utf-8")
    shown = [b.text for b in blocks((ROOT / "docs" / "VECTORS.md").read_text(encoding="utf-8")) if b.language == "c"]
    assert len(shown) == 1
    assert shown[0] in code


def test_the_page_has_every_kind_of_array() -> None:
    page = (ROOT / "docs" / "VECTORS.md").read_text(encoding="utf-8")
    for kind, row in KINDS.items():
        assert f"| `{kind}` | {row.what} |" in page
    assert all(f"`{name}`" in page for name in COLUMNS)


def test_the_page_shows_the_source() -> None:
    """Each piece of C on the page is one of the source, letter by letter."""
    code = SOURCE + (PORT / "vectors.h").read_text(encoding="utf-8")
    shown = [b.text for b in blocks((ROOT / "docs" / "PORTING.md").read_text(encoding="utf-8")) if b.language == "c"]
    assert len(shown) > 5
    for text in shown:
        assert text in re.sub(r"^/\* (?:y = |softmax\(|Whose).*\n", "", code, flags=re.MULTILINE), text
