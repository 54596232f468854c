"""The whole of training: batch, gradients, optimizer, metrics, evaluation, checkpoints."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ..autograd import backend as backends
from ..autograd import threads, tree
from ..autograd.backend import to_host
from ..autograd.tree import Tree
from ..errors import InputError, one_line, shortened
from ..models.call import Call
from .distributed import reducer
from .interrupts import Interrupted, Interrupts
from .lock import alone
from .memory import used
from .metrics import Metrics
from .nonfinite import cause
from .plan import Event, Outcome, Plan, Planned
from .progress import Progress
from .recipe import Options, Recipe, Settings, Task
from .result import finish
from .state import CHECKPOINT, Checkpoints, Saved, State, restore
from .step import Way, merged, training_step
from .turns import TURNS

T = TypeVar("T")


def run(plan: Plan, finish: Callable[[Outcome], T]) -> T:
    """Train all stages of a plan, and give what `finish` makes of the outcome, as long as the folder is the run's own.

    With `resume` a run goes on from its last checkpoint, and gives bit for bit what it would have without a stop
    (NumPy); from the beginning where there is none. Raises `InputError` for a folder that holds another run or cannot
    be written or that another run is writing, for a disk that is full and a loss that is not finite: the last
    checkpoint is then kept. Ctrl-C, SIGTERM and SIGHUP raise `Interrupted` after the step has been saved. Runs in
    several threads of a process take turns, step by step, and give what each gives alone. What goes wrong in one of
    several processes ends them all.
    """
    backends.module(plan.backend)
    first = plan.reducer.rank == 0
    try:
        lock = alone(plan.folder) if plan.folder and first else nullcontext()
        with np.errstate(all="ignore"), Interrupts() as interrupts, lock:
            return _Run(plan, interrupts).run(finish)
    except Exception as error:
        if plan.reducer.size > 1:
            print(f"process {plan.reducer.rank}: {one_line(error)}", file=sys.stderr, flush=True)
            plan.reducer.abort(2 if isinstance(error, InputError) else 1)
        raise


class _Run:
    """One run of a plan, from its beginning or its last checkpoint to its end."""

    def __init__(self, plan: Plan, interrupts: Interrupts) -> None:
        self.plan, self.interrupts, self.reducer = plan, interrupts, plan.reducer
        self.settings = [stage.settings for stage in plan.stages]
        self.total = sum(settings.steps for settings in self.settings)
        self.folder = plan.folder if self.reducer.rank == 0 else None
        self.checkpoints = Checkpoints(self.folder, dict(plan.configuration)) if self.folder else None
        self.evaluation: dict[str, float] = {}
        self.best: tuple[int, State] | None = None
        self.stopped = False

    def run(self, finish: Callable[[Outcome], T]) -> T:
        """All stages, and what is made of them."""
        started = time.perf_counter()
        with self._turn():
            task, structure, state = self._begin()
        self.started = started - state.seconds  # as if the processes before this one had run right before it
        self.metrics = Metrics(self.folder, self._done(state))
        self.metrics.lines = self.reducer.share(self.metrics.lines)  # what was evaluated before, all must know
        self.progress = Progress(self.total, self._done(state), self.reducer.rank > 0 or self.plan.quiet)
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
            return finish(self._outcome(task, structure, state))

    def _outcome(self, task: Task, structure: Tree, state: State) -> Outcome:
        settings, found = self.settings[state.stage], self._best(structure, state)
        chosen = state if found is None else found[1]
        evaluation = self.evaluation if found is None else self._evaluation_of(found[0])
        if not evaluation:  # of a run that was already complete
            evaluation = self._evaluate(task, structure, state)
        made = _result(structure, chosen, settings)
        last = None if chosen is state else _result(structure, state, settings)
        return Outcome(
            task,
            *made,
            evaluation,
            self.metrics.lines,
            self._seconds(),
            self._done(state),
            None if found is None else found[0],
            last,
            used(self.plan.backend),
            self.reducer.rank == 0,
        )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Around computing: no other run of this process does, and products use the plan's number of threads."""
        with TURNS, threads(self.plan.threads):
            yield

    def _train_stage(self, task: Task, structure: Tree, state: State) -> None:
        """The loop."""
        settings = self.settings[state.stage]
        way = Way(settings.parts or 1, self.reducer, bool(settings.mixed))
        optimizer = task.optimizer(settings)
        step = training_step(task, structure, optimizer, self.plan.backend, way)
        rate = task.rate(settings)
        while state.step < settings.steps and not self._over(state):
            with self._turn():
                batch, before = task.batch(state.step), (state.params, state.optimizer)
                call = Call(training=True, key=self._key(state), state=state.running or None)

                again = partial(step, *before, batch, Call(True, call.state, call.key))
                state.params, state.optimizer, loss, metrics = step(*before, batch, call)
                state.step += 1
                if state.running:
                    state.running = merged(state.running, call.updates)
                if isinstance(loss, (np.ndarray, float)):  # on a GPU it would have to be waited for
                    self._finite(loss, state, batch, again)
                self.progress.step(self._done(state))
                last, stopping = state.step == settings.steps, self.reducer.any(self.interrupts.asked)
                evaluating = last or state.step % settings.evaluate_every == 0
                if evaluating or state.step % settings.log_every == 0:
                    line = {"step": self._done(state), "stage": self.plan.stages[state.stage].name}
                    line |= {"loss": self._finite(loss, state, batch, again), "learning_rate": rate(state.step - 1)}
                    line |= {name: float(value) for name, value in metrics.items()}
                    if evaluating:
                        self.evaluation = self._evaluate(task, structure, state)
                        line |= {"evaluation": self.evaluation} if self.evaluation else {}
                    self.metrics.write(line)
                    self.progress.log(line, used(self.plan.backend))
                    if evaluating:
                        self._keep_best(task, structure, state)
                    self._tell(line, structure, state)
                    last = last or self._over(state)
                if last or stopping or state.step % settings.save_every == 0:
                    self._save(state, loss, batch, again)
            if stopping:
                raise Interrupted(self._said_when_stopped(state), self.interrupts.number)

    def _evaluate(self, task: Task, structure: Tree, state: State) -> dict[str, float]:
        """By the first process, for all."""
        found = None
        if self.reducer.rank == 0:
            found = task.evaluate_with(_evaluated(structure, state, self.settings[state.stage]), state.running)
        shared: dict[str, float] = self.reducer.share(found)
        return shared

    def _tell(self, line: dict[str, Any], structure: Tree, state: State) -> None:
        """The callbacks, of a line."""

        def stop() -> None:
            self.stopped = True

        event = Event(line, lambda: state.tree(structure), stop)
        if self.reducer.rank == 0:
            for callback in self.plan.callbacks:
                callback(event)
        if self.plan.callbacks:
            self.stopped = self.reducer.any(self.stopped)

    def _over(self, state: State) -> bool:
        """Whether the stage ends before its last step."""
        watch = self.settings[state.stage].watch
        return self.stopped or (watch is not None and watch.over(self._lines_of(state.stage)))

    def _lines_of(self, stage: int) -> list[dict[str, Any]]:
        name = self.plan.stages[stage].name
        return [line for line in self.metrics.lines if line.get("stage") == name]

    def _evaluation_of(self, step: int) -> dict[str, float]:
        return next(line["evaluation"] for line in self.metrics.lines if line["step"] == step)

    def _keep_best(self, task: Task, structure: Tree, state: State) -> None:
        """Keep the parameters if their evaluation was the best so far; arrays are never changed in place."""
        watch = self.settings[state.stage].watch
        found = None if watch is None else watch.best(self._lines_of(state.stage))
        if found is None or found[0] != self._done(state):
            return
        kept = State(state.stage, state.step, dict(state.params), state.optimizer, 0.0, state.running)
        self.best = (found[0], kept)
        if self.checkpoints is not None:
            self.checkpoints.save_best(kept, self._done(state))

    def _best(self, structure: Tree, state: State) -> tuple[int, State] | None:
        """(step, state) of the best evaluation of a stage that watches something; those of a run that was gone on with
        come from its file. None where the last parameters are the best that there are."""
        watch = self.settings[state.stage].watch
        found = None if watch is None else watch.best(self._lines_of(state.stage))
        if found is None or found[0] == self._done(state):
            return None
        if self.best is not None and self.best[0] == found[0]:
            return self.best
        read = self.checkpoints.load_best(found[0]) if self.checkpoints is not None else None
        read = self.reducer.share(read)
        if read is None:
            return None
        kept = State(state.stage, state.step, dict(state.params), state.optimizer, 0.0, state.running)
        restore(read, kept, self.plan.backend)
        return found[0], kept

    def _begin(self) -> tuple[Task, Tree, State]:
        """The first stage at its start, or the stage of the last checkpoint as that left it."""
        saved = None
        if self.checkpoints is not None:
            if self.checkpoints.exist() and not self.plan.resume:
                raise InputError(
                    f"{self.plan.folder} holds a run; go on with {self.plan.to_resume}, or choose another folder"
                )
            self.checkpoints.prepare()
            saved = self.checkpoints.load()
            if saved is not None:
                self._check_position(saved)
        saved = self.reducer.share(saved)
        before = None
        for earlier in range(saved.meta["position"]["stage"] if saved else 0):
            before = self._start(earlier, before)[1]
        task, structure, state = self._start(saved.meta["position"]["stage"] if saved else 0, before)
        if saved is not None:
            restore(saved, state, self.plan.backend)
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
        task = self.plan.stages[number].build()
        structure = task.init(before)
        params = {path: backends.to_backend(p, self.plan.backend) for path, p in tree.flatten(structure).items()}
        optimizer = task.optimizer(self.settings[number])
        kept = optimizer.init({path: p for path, p in params.items() if task.trainable(path)})
        running = tree.map(lambda a: backends.to_backend(a, self.plan.backend), task.init_state())
        return task, structure, State(number, 0, params, kept, 0.0, running)

    def _save(self, state: State, loss: Any, batch: dict[str, Any], again: Any) -> None:
        """A checkpoint, unless the loss or a parameter is no longer finite: the last one is then the good one."""
        self._finite(loss, state, batch, again)
        if not state.all_finite():
            raise InputError(f"a parameter is not finite after step {self._done(state)}; {self._advice()}")
        if self.checkpoints is not None:
            state.seconds = self._seconds()
            self.metrics.flush()
            self.checkpoints.save(state, self._key(state))

    def _finite(self, loss: Any, state: State, batch: dict[str, Any], again: Any) -> float:
        value = float(loss)
        if not math.isfinite(value):
            why = cause(batch, again)
            raise InputError(
                f"the loss of step {self._done(state)} is {value}{f'; {why}' if why else ''}; {self._advice()}"
            )
        return value

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _key(self, state: State) -> tuple[int, ...]:
        """Of the random numbers that the next step may draw, as dropout does."""
        return (self.plan.seed, state.stage, state.step)

    def _done(self, state: State) -> int:
        """Steps of all stages."""
        return sum(settings.steps for settings in self.settings[: state.stage]) + state.step

    def _advice(self) -> str:
        if self.checkpoints is None or not self.checkpoints.exist():
            return "nothing was saved; try another seed, or settings with a lower learning rate"
        return f"{self.checkpoints.folder / CHECKPOINT} is the last good checkpoint; try another seed or lower rates"

    def _said_when_stopped(self, state: State) -> str:
        done = f"interrupted after step {self._done(state)}"
        if self.plan.folder is None:
            return f"{done}; {self.plan.unsaved}"
        return f"{done}, which is saved; go on with: {self.plan.command}"


def _evaluated(structure: Tree, state: State, settings: Settings) -> Tree:
    """The parameters that are evaluated, of the backend: their moving average where there is one."""
    if settings.average is None:
        return state.tree(structure)
    kept = state.optimizer["optimizer"] if settings.mixed else state.optimizer
    every = {**state.params, **dict(tree.leaves(kept["average"]))}
    return tree.unflatten_like(structure, [every[path] for path, _ in tree.leaves(structure)])


def _result(structure: Tree, state: State, settings: Settings) -> tuple[Tree, Tree]:
    """(parameters, running statistics) as NumPy arrays."""
    return tree.map(to_host, _evaluated(structure, state, settings)), tree.map(to_host, state.running)


def _host(structure: Tree, state: State) -> Tree:
    """The parameters as NumPy arrays."""
    return tree.map(to_host, state.tree(structure))


def train(recipe: Recipe, options: Options) -> dict[str, Any]:
    """Train all stages of a recipe and return the result, which is also written to `out`/result.json; see `run`."""
    return run(planned(recipe, options), partial(finish, recipe, options))


def planned(recipe: Recipe, options: Options) -> Plan:
    """The plan of a recipe."""
    stages = [
        Planned(stage.name, stage.chosen(options.quick), partial(stage.build, options.seed, options.quick))
        for stage in recipe.stages
    ]
    given = {"recipe": recipe.name, "seed": options.seed, "quick": options.quick}
    given |= {"backend": options.backend, "threads": recipe.threads}
    given |= {} if recipe.identity is None else {"identity": dict(recipe.identity)}
    again = f"--out {options.out} --seed {options.seed} --backend {options.backend}{' --quick' * options.quick}"
    return Plan(
        stages,
        {**given, "stages": {stage.name: stage.settings.plain() for stage in stages}},
        options.seed,
        options.backend,
        options.folder,
        options.resume,
        recipe.threads,
        f"perceiver-ref train {recipe.command or recipe.name} {again} --resume",
        reducer=reducer(None, options.backend),
    )
