"""The files and folders that hold a port's arrays, one reader each. Nothing in a file ever runs.

table        which reader a file or folder gets, by what it holds: the rows that code, tests and documents share
look         what a file or folder is recognised by
held         what every reader gives: arrays by name, and what a text prints of others
containers   `.npz`, `.npy`, `.safetensors`, `.pt` and `.gguf`, by the readers of `weights.formats`
npy_folder   a folder of `.npy`
raw          raw numbers with an index in JSON
onnx_tensor  ONNX's tensors: test data sets, ONNX Runtime's dumps
polygraphy   Polygraphy's JSON
debugger     transformers' model debugger
tensor_text  tensors as PyTorch prints them
ggml_text    tensors as llama.cpp and its relatives print them
"""

from .held import Held, Printed, corners
from .table import FORMATS, Format, case_files, is_case, kind_of, read_arrays, read_held

__all__ = [
    "FORMATS",
    "Format",
    "Held",
    "Printed",
    "case_files",
    "corners",
    "is_case",
    "kind_of",
    "read_arrays",
    "read_held",
]
