"""The whole of training: batch, gradients, optimizer, metrics, evaluation, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from ..autograd import backend as backends
from ..autograd import threads, tree, value_and_grad
from ..autograd.backend import to_host
from ..autograd.optim import Optimizer
from ..autograd.tree import Tree
from ..errors import InputError, shortened
from ..models.call import Call
from .interrupts import Interrupted, Interrupts
from .lock import alone
from .metrics import Metrics
from .progress import Progress
from .recipe import Options, Recipe, Task
from .result import finish
from .state import CHECKPOINT, Checkpoints, Saved, State, restore
from .turns import TURNS


def train(recipe: Recipe, options: Options) -> dict[str, Any]:
    """Train all stages and return the result, which is also written to `out`/result.json.

    With `resume` a run goes on from its last checkpoint, and gives bit for bit what it would have without a stop
    (NumPy); from the beginning where there is none. Raises `InputError` for a folder that holds another run or cannot
    be written or that another run is writing, for a disk that is full and a loss that is not finite: the last
    checkpoint is then kept. Ctrl-C, SIGTERM and SIGHUP raise `Interrupted` after the step has been saved. Runs in
    several threads of a process take turns, step by step, and give what each gives alone.
    """
    backends.module(options.backend)
    with np.errstate(all="ignore"), Interrupts() as interrupts, alone(options.out) if options.out else nullcontext():
        return _Run(recipe, options, interrupts).train()


def training_step(task: Task, structure: Tree, optimizer: Optimizer, backend: str) -> Callable[..., Any]:
    """One step: (params by path, optimizer's state, batch, call) -> (params, state, loss, metrics).

    `structure` is a tree of the parameters. Nothing waits for a device.
    """
    paths = list(tree.flatten(structure))
    trainable = {path for path in paths if task.trainable(path)}

    def loss(trained: Tree, frozen: Tree, batch: dict[str, Any], call: Call) -> tuple[Any, dict[str, Any]]:
        every = {**frozen, **trained}
        return task.loss(tree.unflatten_like(structure, [every[path] for path in paths]), batch, call)

    gradients_of = value_and_grad(loss, has_aux=True)

    def step(params: Tree, state: Tree, batch: dict[str, Any], call: Call) -> tuple[Tree, Tree, Any, dict[str, Any]]:
        batch = {k: a if a.dtype.kind in "iu" else backends.to_backend(a, backend) for k, a in batch.items()}
        trained = {path: p for path, p in params.items() if path in trainable}
        frozen = {path: p for path, p in params.items() if path not in trainable}
        (value, metrics), gradients = gradients_of(trained, frozen, batch, call)
        trained, state = optimizer.step(trained, gradients, state)
        return {path: trained.get(path, p) for path, p in params.items()}, state, value, metrics

    return step


class _Run:
    """One run of a recipe, from its beginning or its last checkpoint to its result."""

    def __init__(self, recipe: Recipe, options: Options, interrupts: Interrupts) -> None:
        self.recipe, self.options, self.interrupts = recipe, options, interrupts
        self.settings = [stage.chosen(options.quick) for stage in recipe.stages]
        self.total = sum(settings.steps for settings in self.settings)
        self.checkpoints = Checkpoints(options.out, self._configuration()) if options.out else None
        self.evaluation: dict[str, float] = {}

    def _configuration(self) -> dict[str, Any]:
        """What a checkpoint must agree in to be gone on from."""
        given = {"recipe": self.recipe.name, "seed": self.options.seed, "quick": self.options.quick}
        given |= {"backend": self.options.backend, "threads": self.recipe.threads}
        named = zip(self.recipe.stages, self.settings)
        return {**given, "stages": {stage.name: settings.plain() for stage, settings in named}}

    def train(self) -> dict[str, Any]:
        """All stages, and the result."""
        started = time.perf_counter()
        with self._turn():
            task, structure, state = self._begin()
        self.started = started - state.seconds  # as if the processes before this one had run right before it
        self.metrics = Metrics(self.options.out, self._done(state))
        self.progress = Progress(self.total, self._done(state))
        try:
            self._train_stage(task, structure, state)
            while state.stage + 1 < len(self.settings):
                with self._turn():
                    task, structure, state = self._start(state.stage + 1, _host(structure, state))
                self._train_stage(task, structure, state)
        finally:
            self.metrics.close()
            self.progress.close()
        with self._turn():
            evaluation = self.evaluation or task.evaluate(state.tree(structure))  # evaluated in the loop, but for a run
            seconds = self._seconds()  # that was already complete
            params = _host(structure, state)
            return finish(self.recipe, self.options, task, params, evaluation, self.metrics.lines, seconds)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Around computing: no other run of this process does, and products use the recipe's number of threads."""
        with TURNS, threads(self.recipe.threads):
            yield

    def _train_stage(self, task: Task, structure: Tree, state: State) -> None:
        """The loop."""
        settings = self.settings[state.stage]
        rate = settings.rate()
        step = training_step(task, structure, settings.make_optimizer(task.decays), self.options.backend)
        while state.step < settings.steps:
            with self._turn():
                call = Call(training=True, key=self._key(state))
                updated = step(state.params, state.optimizer, task.batch(state.step), call)
                state.params, state.optimizer, loss, metrics = updated
                state.step += 1
                self.progress.step(self._done(state))
                last, stopping = state.step == settings.steps, self.interrupts.asked
                evaluating = last or state.step % settings.evaluate_every == 0
                if evaluating or state.step % settings.log_every == 0:
                    line = {"step": self._done(state), "stage": self.recipe.stages[state.stage].name}
                    line |= {"loss": self._finite(loss, state), "learning_rate": rate(state.step - 1)}
                    line |= {name: float(value) for name, value in metrics.items()}
                    if evaluating:
                        line["evaluation"] = self.evaluation = task.evaluate(state.tree(structure))
                    self.metrics.write(line)
                    self.progress.log(line)
                if last or stopping or state.step % settings.save_every == 0:
                    self._save(state, loss)
            if stopping:
                raise Interrupted(self._stopped(state), self.interrupts.number)

    def _begin(self) -> tuple[Task, Tree, State]:
        """The first stage at its start, or the stage of the last checkpoint as that left it."""
        saved = None
        if self.checkpoints is not None:
            if self.checkpoints.exist() and not self.options.resume:
                raise InputError(f"{self.options.out} holds a run; go on with --resume, or choose another folder")
            self.checkpoints.prepare()
            saved = self.checkpoints.load()
            if saved is not None:
                self._check_position(saved)
        before = None
        for earlier in range(saved.meta["position"]["stage"] if saved else 0):
            before = self._start(earlier, before)[1]
        task, structure, state = self._start(saved.meta["position"]["stage"] if saved else 0, before)
        if saved is not None:
            restore(saved, state, self.options.backend)
        return task, structure, state

    def _check_position(self, saved: Saved) -> None:
        """`InputError` unless a checkpoint's place is one of this run."""
        stage, step = (saved.meta["position"][key] for key in ("stage", "step"))
        if stage >= len(self.settings) or step > self.settings[stage].steps:
            raise InputError(
                f"{saved.path} says that step {shortened(step)} of stage {shortened(stage)} is done, which this recipe "
                "does not have; start anew in another folder"
            )

    def _start(self, number: int, before: Tree) -> tuple[Task, Tree, State]:
        """A stage at its start: its task, a tree of the parameters, and where the run is."""
        task = self.recipe.stages[number].build(self.options.seed, self.options.quick)
        structure = task.init(before)
        params = {path: backends.to_backend(p, self.options.backend) for path, p in tree.flatten(structure).items()}
        optimizer = self.settings[number].make_optimizer(task.decays)
        state = optimizer.init({path: p for path, p in params.items() if task.trainable(path)})
        return task, structure, State(number, 0, params, state)

    def _save(self, state: State, loss: Any) -> None:
        """A checkpoint, unless the loss or a parameter is no longer finite: the last one is then the good one."""
        self._finite(loss, state)
        if not state.all_finite():
            raise InputError(f"a parameter is not finite after step {self._done(state)}; {self._advice()}")
        if self.checkpoints is not None:
            state.seconds = self._seconds()
            self.metrics.flush()
            self.checkpoints.save(state, self._key(state))

    def _finite(self, loss: Any, state: State) -> float:
        value = float(loss)
        if not math.isfinite(value):
            raise InputError(f"the loss of step {self._done(state)} is {value}; {self._advice()}")
        return value

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _key(self, state: State) -> tuple[int, ...]:
        """Of the random numbers that the next step may draw, as dropout does."""
        return (self.options.seed, state.stage, state.step)

    def _done(self, state: State) -> int:
        """Steps of all stages."""
        return sum(settings.steps for settings in self.settings[: state.stage]) + state.step

    def _advice(self) -> str:
        if self.checkpoints is None or not self.checkpoints.exist():
            return "nothing was saved; try another seed, or settings with a lower learning rate"
        return f"{self.checkpoints.folder / CHECKPOINT} is the last good checkpoint; try another seed or lower rates"

    def _stopped(self, state: State) -> str:
        if self.checkpoints is None:
            return f"interrupted after step {self._done(state)}; nothing is saved without --out DIR"
        given = self.options
        options = f"--out {given.out} --seed {given.seed} --backend {given.backend}{' --quick' if given.quick else ''}"
        return (
            f"interrupted after step {self._done(state)}, which is saved; "
            f"go on with: perceiver-ref train {self.recipe.name} {options} --resume"
        )


def _host(structure: Tree, state: State) -> Tree:
    """The parameters as NumPy arrays."""
    return tree.map(to_host, state.tree(structure))
