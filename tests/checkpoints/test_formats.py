"""The same weights in every format load as the same parameters; bfloat16, wrappers' prefixes and tied names."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import CONFIG, IMAGE_CONFIG, invoke, prepare, rebuilt, weights
from files.dump_writers import gguf
from files.torch_files import ordered, save
from support import assert_close

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.weights.checkpoints import CheckpointWarning, read_checkpoint
from perceiver_ref.weights.formats.npz import read_npz, write_npz
from perceiver_ref.weights.formats.read import READERS
from perceiver_ref.weights.formats.safetensors_file import write_safetensors

Arrays = Mapping[str, np.ndarray]
BASE = "perceiver.embeddings.latents"


def pytorch(**options: Any) -> Callable[[Path, Arrays], None]:
    return lambda path, arrays: path.write_bytes(save(arrays, **options)) and None


def lightning(path: Path, arrays: Arrays) -> None:
    path.write_bytes(save(arrays, lambda d: {"epoch": 1, "state_dict": ordered(d), "optimizer_states": [{}]}))


WRITERS: dict[str, Callable[[Path, Arrays], Any]] = {
    ".npz": write_npz,
    ".safetensors": write_safetensors,
    ".pt": pytorch(),
    ".pth": pytorch(old=True),
    ".bin": pytorch(wrap=dict),
    ".ckpt": lightning,
    ".gguf": lambda path, arrays: gguf(path.parent, arrays).rename(path),
}


def test_every_format_has_a_writer_here() -> None:
    assert {*WRITERS, ".pickle", ".pkl", ".pystate"} == set(READERS)  # pickles: see test_pickled


def write(folder: Path, ending: str, arrays: Arrays, config: Mapping[str, Any] = CONFIG) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    WRITERS[ending](folder / f"weights{ending}", arrays)
    return folder / f"weights{ending}"


def expected(dtype: Any = np.float32) -> Any:
    return rebuilt().load(weights(CONFIG, dtype), "here")[0]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_gives_the_parameters(tmp_path: Path, ending: str, dtype: Any, backend: str) -> None:
    path = write(tmp_path, ending, weights(CONFIG, dtype))
    model, params = pr.load("hf", path, backend=backend)
    assert model == rebuilt().model
    assert_close(params, expected(dtype), tolerance=0)
    assert {leaf.dtype for _, leaf in tree.leaves(params)} == {np.dtype(dtype)}


@pytest.mark.parametrize("ending", WRITERS)
def test_float16_is_widened_exactly(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path, ending, weights(CONFIG, np.float16))
    for wide in (np.float32, np.float64):
        _, params = pr.load("hf", path, dtype=wide)
        assert {leaf.dtype for _, leaf in tree.leaves(params)} == {np.dtype(wide)}
        assert_close(params, rebuilt().load(weights(CONFIG, np.float16), "here")[0], tolerance=0)


def test_what_does_not_fit_into_the_dtype_asked_for_is_named(tmp_path: Path) -> None:
    arrays = weights(CONFIG, np.float64)
    arrays[BASE][0, 0] = 1e300
    path = write(tmp_path, ".npz", arrays)
    with pytest.raises(pr.InputError, match=rf"parameter '{BASE}' does not fit into float32"):
        pr.load("hf", path, dtype=np.float32)


def truncated(arrays: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(bits of bfloat16, the float32 numbers that they are): the upper halves of float32."""
    bits = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in arrays.items()}
    return bits, {name: (array.astype(np.uint32) << 16).view(np.float32) for name, array in bits.items()}


def safetensors_of_bfloat16(path: Path, bits: Arrays) -> None:
    header, begin = {}, 0
    for name, array in bits.items():
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [begin, begin + array.nbytes]}
        begin += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in bits.values()))


def pytorch_of_bfloat16(path: Path, bits: Arrays) -> None:
    from files.torch_files import storage, tensor, zipped

    content, storages = {}, {}
    for name, array in bits.items():
        strides = [stride // 2 for stride in array.strides]
        content[name] = tensor(storage(name, "bfloat16", array.size), 0, array.shape, tuple(strides))
        storages[name] = array.ravel()
    path.write_bytes(zipped(content, storages))


@pytest.mark.parametrize(
    ("ending", "writer"), [(".safetensors", safetensors_of_bfloat16), (".pt", pytorch_of_bfloat16)]
)
@pytest.mark.parametrize("asked", [None, np.float32, np.float64])
def test_bfloat16_is_exact(tmp_path: Path, ending: str, writer: Any, asked: Any) -> None:
    bits, numbers = truncated(weights(CONFIG, np.float32))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    path = tmp_path / f"weights{ending}"
    writer(path, bits)
    _, params = pr.load("hf", path, dtype=asked)
    assert {leaf.dtype for _, leaf in tree.leaves(params)} == {np.dtype(asked or np.float32)}
    assert_close(params, rebuilt().load(numbers, "here")[0], tolerance=0)


def directory(folder: Path, arrays: Arrays, shards: int) -> Path:
    """A directory of transformers before safetensors: pytorch_model.bin, or shards and an index."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if shards == 1:
        (folder / "pytorch_model.bin").write_bytes(save(arrays))
        return folder
    names = {name: f"pytorch_model-{i % shards + 1:05}-of-{shards:05}.bin" for i, name in enumerate(arrays)}
    for shard in set(names.values()):
        (folder / shard).write_bytes(save({n: a for n, a in arrays.items() if names[n] == shard}))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_directories_of_pytorch_files(tmp_path: Path, shards: int) -> None:
    folder = directory(tmp_path / "checkpoint", weights(CONFIG, np.float32), shards)
    assert_close(pr.load("hf", folder)[1], expected(), tolerance=0)
    write_safetensors(folder / "model.safetensors", weights(CONFIG, np.float64))  # preferred where both are there
    assert_close(pr.load("hf", folder)[1], expected(np.float64), tolerance=0)


@pytest.mark.parametrize("name", ["../x.bin", "/x.bin", "sub/x.bin", "x\n.bin", 3, None])
def test_shards_lie_beside_their_index(tmp_path: Path, name: Any) -> None:
    folder = directory(tmp_path / "checkpoint", weights(CONFIG, np.float32), 2)
    index = folder / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][BASE] = name
    index.write_text(json.dumps(content))
    with pytest.raises(pr.InputError, match="weight_map must map names to files of the same directory"):
        pr.load("hf", folder)


def test_a_name_that_no_file_can_have_is_one_error(tmp_path: Path) -> None:
    folder = directory(tmp_path / "checkpoint", weights(CONFIG, np.float32), 2)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "x" * 900}}))
    with pytest.raises(pr.InputError, match=r"cannot be read \(File name too long\)|does not exist"):
        pr.load("hf", folder)
    with pytest.raises(pr.InputError, match=r"cannot be read \(embedded null|does not exist"):
        pr.load("hf", tmp_path / "x\0.npz", config=CONFIG)


def test_shards_hold_each_array_once_and_all(tmp_path: Path) -> None:
    arrays = weights(CONFIG, np.float32)
    folder = directory(tmp_path / "checkpoint", arrays, 2)
    shard = folder / "pytorch_model-00001-of-00002.bin"
    whole = shard.read_bytes()
    shard.write_bytes(save(arrays))
    with pytest.raises(pr.InputError, match="is in another shard, too"):
        pr.load("hf", folder)
    shard.write_bytes(whole)
    index = folder / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["x"] = shard.name
    index.write_text(json.dumps(content))
    with pytest.raises(pr.InputError, match="missing: 1 arrays that no shard holds, such as 'x'"):
        pr.load("hf", folder)
    content["weight_map"] = dict.fromkeys(arrays, "config.json")
    index.write_text(json.dumps(content))
    with pytest.raises(pr.InputError, match=r"the shard 'config.json' is no .bin file"):
        pr.load("hf", folder)


PREFIXES = {
    "module.": "module. at the start",
    "model.": "model. at the start",
    "_orig_mod.": "_orig_mod. anywhere",
    "module._orig_mod.": "_orig_mod. anywhere, module. at the start",
    "_orig_mod.module.": "_orig_mod. anywhere, module. at the start",
    "model._orig_mod.module.": "_orig_mod. anywhere, model. at the start, module. at the start",
    "module.module.": "module. at the start, module. at the start",
    "module.model.": "module. at the start, model. at the start",
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_left_out_and_said(tmp_path: Path, prefix: str) -> None:
    path = write(tmp_path, ".pt", {prefix + name: array for name, array in weights(CONFIG, np.float32).items()})
    with pytest.warns(CheckpointWarning) as warned:
        _, params = pr.load("hf", path)
    assert [str(w.message) for w in warned] == [f"{path}: left out of names: {PREFIXES[prefix]}"]
    assert warned[0].filename == __file__
    assert_close(params, expected(), tolerance=0)


def test_wrappers_within_names(tmp_path: Path) -> None:
    """FSDP and compiled or checkpointed parts of a model."""
    wrapped = {
        name.replace("perceiver.", "perceiver._fsdp_wrapped_module.")
        .replace(".attention.", "._checkpoint_wrapped_module._orig_mod.attention."): array
        for name, array in weights(CONFIG, np.float32).items()
    }  # fmt: skip
    checkpoint = read_checkpoint("hf", write(tmp_path, ".npz", wrapped))
    (note,) = checkpoint.notes
    assert note.endswith("left out of names: _orig_mod., _fsdp_wrapped_module., _checkpoint_wrapped_module. anywhere")
    assert set(checkpoint.arrays) == set(weights(CONFIG))


def test_no_prefix_no_warning(tmp_path: Path) -> None:
    path = write(tmp_path, ".pt", weights(CONFIG, np.float32))
    with warnings.catch_warnings(action="error"):
        pr.load("hf", path)


def test_names_that_do_not_fit_without_a_prefix_either(tmp_path: Path) -> None:
    arrays = {f"module.{name}": array for name, array in weights(CONFIG, np.float32).items()}
    del arrays[f"module.{BASE}"]
    with pytest.raises(pr.InputError, match=rf"do not fit the configuration; missing: {BASE}$"):
        pr.load("hf", write(tmp_path, ".npz", arrays))  # the prefix is seen through: one name, not all of them
    others = {f"encoder.{name}": array for name, array in weights(CONFIG, np.float32).items()}
    del others[f"encoder.{BASE}"]
    with pytest.raises(pr.InputError, match=r"missing: .*; unused: encoder\."):
        pr.load("hf", write(tmp_path, ".npz", others))
    arrays = weights(CONFIG, np.float32)
    both = arrays | {f"module.{name}": array + 1 for name, array in arrays.items()}
    with pytest.raises(pr.InputError, match=r"unused: module.embedding_decoder.bias, module.perceiver"):
        pr.load("hf", write(tmp_path, ".npz", both))  # the model, and another's weights


@pytest.mark.parametrize("ending", [".pt", ".npz"])
def test_a_tied_parameter_may_be_there_twice(tmp_path: Path, ending: str) -> None:
    arrays = weights(CONFIG, np.float32)
    name = "perceiver.input_preprocessor.embeddings.weight"
    path = write(tmp_path, ending, {**arrays, "embedding_decoder.weight": arrays[name]})
    with pytest.warns(CheckpointWarning, match=f"embedding_decoder.weight is tied to {name}, whose values it has"):
        _, params = pr.load("hf", path)
    assert_close(params, expected(), tolerance=0)
    other = arrays[name].copy()
    other[-1, -1] += 1
    with pytest.raises(pr.InputError, match=r"unused: embedding_decoder.weight"):
        pr.load("hf", write(tmp_path, ending, {**arrays, "embedding_decoder.weight": other}))
    zeros = np.zeros_like(arrays[BASE])
    with pytest.raises(pr.InputError, match="unused: more"):  # equal constants are no sign of a tie
        pr.load("hf", write(tmp_path, ".npz", {**arrays, BASE: zeros, "more": zeros}))


def test_run_says_what_was_done_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = prepare(tmp_path)
    path = write(tmp_path, ".ckpt", {f"model.{name}": array for name, array in weights(CONFIG).items()})
    assert invoke(capsys, *files.arguments).code == 0
    before = read_npz(tmp_path / "out.npz")
    finished = invoke(capsys, *files.replace("--weights", path))
    assert finished.code == 0
    assert finished.err == f"perceiver-ref run: note: {path}: left out of names: model. at the start\n"
    assert_close(read_npz(tmp_path / "out.npz"), before, tolerance=1e-14)  # threads may order sums differently


def test_a_case_with_buffers_is_a_checkpoint(tmp_path: Path) -> None:
    case = pr.vectors.read_case(Path(__file__).parents[1] / "vectors" / "hf" / "image_conv.npz")
    pr.vectors.write_case(tmp_path / "case.npz", case)
    checkpoint = read_checkpoint("hf", tmp_path / "case.npz", case.meta["class"], config=case.meta["config"])
    assert set(checkpoint.arrays) == {*case.params, *case.state}


def test_images_too(tmp_path: Path) -> None:
    path = write(tmp_path, ".pt", weights(IMAGE_CONFIG, np.float32), IMAGE_CONFIG)
    assert_close(pr.load("hf", path)[1], rebuilt(IMAGE_CONFIG).load(weights(IMAGE_CONFIG, np.float32), "")[0], 0)
