"""Dumps by the tools that people use: what the readers are for, as those tools write it.

    python tests/porting/make_real_dumps.py

Made with torch 2.13, transformers 5.23, safetensors 0.8, onnx 1.23.2, gguf 0.19, polygraphy 0.53.6, which the tests do
without. `VALUES` is what each of them holds: few exact numbers and many that are not, sizes that all differ.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

REAL = Path(__file__).parent / "real_dumps"
FOLDER = "tree", "files"
"""transformers' model debugger, with tensors as text and as files."""


def values() -> dict[str, np.ndarray]:
    """Numbers by a formula: sin, of which nothing is a round number."""

    def some(first: float, *shape: int) -> np.ndarray:
        return np.sin(first + 0.7 * np.arange(np.prod(shape))).reshape(shape).astype(np.float32)

    return {"logits": some(1, 3, 5), "encoder.norm": some(2, 2, 7, 96), "ids": np.arange(6).reshape(2, 3)}


def gguf() -> None:
    """Every type that is read, by the package of llama.cpp."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    given = values()
    writer = GGUFWriter(REAL / "dump.gguf", "perceiver")
    writer.add_array("tokens", ["a", "", "é"])
    writer.add_array("scores", [1.0, 2.0])
    writer.add_bool("flag", True)
    writer.add_tensor("logits", given["logits"])
    writer.add_tensor("ids", given["ids"])
    for kind in ("F16", "BF16", "Q8_0", "Q4_0"):
        number = GGMLQuantizationType[kind]
        writer.add_tensor(f"encoder.norm.{kind}", quantize(given["encoder.norm"], number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def onnx() -> None:
    """A test data set, and a tensor whose numbers are in their typed field."""
    from onnx import TensorProto, helper, numpy_helper, save_tensor

    given = values()
    (REAL / "onnx").mkdir()
    save_tensor(numpy_helper.from_array(given["ids"], "ids"), REAL / "onnx" / "input_0.pb")
    save_tensor(numpy_helper.from_array(given["logits"], "logits"), REAL / "onnx" / "output_0.pb")
    norm = given["encoder.norm"]
    for kind in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"):
        tensor = helper.make_tensor(f"encoder.norm.{kind}", getattr(TensorProto, kind), norm.shape, norm.ravel())
        save_tensor(tensor, REAL / "onnx" / f"encoder_norm_{kind}.tensorproto")


def polygraphy() -> None:
    """What `polygraphy run --save-outputs` and `--save-inputs` write."""
    from polygraphy.comparator import IterationResult, RunResults
    from polygraphy.json import save_json

    given = values()
    results = RunResults()
    outputs = {name: given[name] for name in ("logits", "encoder.norm")}
    results.append(("onnxrt-runner-N0", [IterationResult(outputs, runtime=0.1, runner_name="onnxrt-runner-N0")]))
    results.save(str(REAL / "outputs.json"))
    save_json([{"ids": given["ids"]}], str(REAL / "inputs.json"))


def torch() -> None:
    """A dict in a dict, one of its tensors in bfloat16."""
    import torch as t

    given = {name: t.tensor(array) for name, array in values().items()}
    t.save(
        {
            "meta": {"seed": 3},
            "output": {"logits": given["logits"]},
            "trace": {"encoder": {"norm": given["encoder.norm"].bfloat16()}},
            "input": {"ids": given["ids"]},
        },
        REAL / "dump.pt",
    )


def debugger() -> None:
    """A module called twice, a tuple, and outputs of the model."""
    import torch as t
    from transformers.model_debugging_utils import model_addition_debugger_context

    given = {name: t.tensor(array) for name, array in values().items()}

    class Norm(t.nn.Module):
        def forward(self, x: t.Tensor) -> tuple[t.Tensor, t.Tensor]:
            return x * 1, x[0, 0] * 1

    class Model(t.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = t.nn.ModuleDict({"norm": Norm(), "same": t.nn.Identity()})

        def forward(self, ids: t.Tensor) -> dict[str, t.Tensor]:
            self.encoder["norm"](given["encoder.norm"])
            self.encoder["same"](given["logits"] + 1)
            return {"logits": self.encoder["same"](given["logits"])}

    for name, use_repr in zip(FOLDER, (True, False)):
        with model_addition_debugger_context(
            Model(), str(REAL / name), do_prune_layers=False, use_repr=use_repr
        ) as model:
            model(ids=given["ids"])


def main() -> None:
    """All of them, in place of those that are there."""
    with tempfile.TemporaryDirectory() as kept:
        if REAL.exists():
            shutil.move(REAL, kept)
        REAL.mkdir()
        for make in (gguf, onnx, polygraphy, torch, debugger):
            make()


if __name__ == "__main__":
    main()
