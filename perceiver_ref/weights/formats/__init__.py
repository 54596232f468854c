"""The files that weights come in, one reader each. Nothing in a file ever runs.

read              chooses the reader of a file or directory
safetensors_file  `.safetensors`, read and written
gguf              `.gguf`: F32, F16, BF16, Q8_0 and integers
pytorch           files of `torch.save`: tensors as views of storages (`tensors`) in a pickle
pickles           DeepMind's pickles of NumPy trees
opcodes           pickles interpreted in place of being run
foreign           what stands for anything else that a pickle names
contents          what a file is, whatever its name says
archive           zip archives: `.npz` (see `vectors.npz`) and PyTorch's
dtypes            bfloat16 and float8 widened, precision changed, NaN found
state_dict        where in a checkpoint the weights are
prefixes          below which prefix of a whole model's names a part of it is
fit               a file's names fitted to a class: prefixes, tied parameters, what is left over
own               our own checkpoint, which leads back to the peer's
"""
