"""Training: data of one's own (`fit`), and the small models of `recipes`.

fitted       `fit`: train a model on data of one's own: what most need
data         arrays, lists of many lengths, functions and streams, as batches by the number of their step
losses       losses and metrics by name, and functions in their place
fitting      what `fit` trains, as a task of the loop
tables       CSV and npz files as arrays; rows of numbers as elements
own/         classifiers and language models of files, without Python

recipe       what a recipe is: Task, Settings, Stage, Recipe; what a run is given: Options
plan         what the loop runs and gives: Plan, Event, Outcome
loop         the whole of training: batch, gradients, optimizer, metrics, evaluation, checkpoints
step         one step: parts of a batch, processes, float16
distributed  processes that share a batch, over MPI and NCCL
watch        the best evaluation, and when to stop
state        what a checkpoint holds, and writing and reading it
metrics      metrics.jsonl: one line a logged step, none twice after resuming
writers      the same as CSV and for TensorBoard
nonfinite    where a NaN comes from
memory       what a run needs
progress     rate, loss and time left, by tqdm or as plain lines
interrupts   Ctrl-C, SIGTERM, SIGHUP: the step under way is finished and saved
lock         one run in a folder
turns        runs in several threads of a process take turns
result       result.json, the model, curves and what the task shows
pictures     curves.png and attention maps, with the extra `plot`
recipes/     the recipes themselves, and their data
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {"Fitted": ".fitted", "fit": ".fitted", "Settings": ".recipe", "Task": ".recipe", "table_model": ".tables"}
# imported on first use: the table of recipes costs next to nothing


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
