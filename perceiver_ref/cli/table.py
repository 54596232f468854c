"""The table of commands: what each does, and examples of it. `--help` and the tests are made of it.

The module of each is called like the command, and holds `options` and a function of the same name; only that of the
command that is run is imported.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command: what it does in half a sentence; (example, what it is for); exit codes, where they are not 0 and 2."""

    name: str
    what: str
    examples: tuple[tuple[str, str], ...]
    codes: str = "0 when it is done, 2 for bad input"

    @property
    def epilog(self) -> str:
        """The end of its help: examples in two columns, and the exit codes."""
        width = max(len(example) for example, _ in self.examples)
        lines = [f"  perceiver-ref {example:<{width}}  {what}".rstrip() for example, what in self.examples]
        return "\n".join(["examples:", *lines, "", f"exit code: {self.codes}"])


COMMANDS = (
    Command(
        "check",
        "rebuild cases in the reference and compare outputs, gradients and traces",
        (
            ("check", "the packaged cases"),
            ("check vectors my_case.npz --json result.json", "a folder and a file"),
            ("check --backend cupy --dtype float32", "on a GPU, in float32"),
            ("check probe.npz --weights checkpoint", "a probe of real weights"),
        ),
        "0 when all agree, 1 for a mismatch, 2 for bad input",
    ),
    Command(
        "run",
        "run a checkpoint of another implementation in the reference",
        (
            ("run --peer hf --weights checkpoint --inputs inputs.npz --output outputs.npz", "a folder of transformers"),
            ("run --weights model.npz --inputs inputs.npz --output outputs.npz --trace", "one that convert wrote"),
        ),
    ),
    Command(
        "convert",
        "weights to our own checkpoint, and back to the peer's names",
        (
            ("convert --peer hf --weights checkpoint --output model.npz", "to our names"),
            ("convert --weights model.npz --to-peer --output model.safetensors", "and back"),
        ),
    ),
    Command(
        "bind",
        "find which of a port's arrays is which parameter, whatever their names",
        (
            ("bind port.npz --to config.json --out map.json", "a case with names of its own"),
            ("bind port.npz --to peer.npz --seconds 300", "to the class of another case"),
        ),
        "0 when a map is found and verified, 1 when not, 2 for bad input",
    ),
    Command(
        "diagnose",
        "say whether outputs are right, and if not, which deviation it is",
        (
            ("diagnose port.npz", "a case with the outputs of a port"),
            ("diagnose port.npz --html port.html", "with plots of the error"),
            ("diagnose port.npz --backend cupy", "on a GPU"),
        ),
        "0 for a match or rounding, 1 for a difference, 2 for bad input",
    ),
    Command(
        "compare",
        "two dumps of intermediate values: where they begin to differ, and how it grows",
        (
            ("compare reference.npz mine.npz", "under any names"),
            ("compare reference.npz mine.npz --tolerance 1e-4 --html report.html", "with a page of plots"),
        ),
        "0 when all agree, 1 for a mismatch, 2 for bad input",
    ),
    Command(
        "export",
        "fresh vectors for a port, and the conformance pack",
        (
            ("export perceiver-io/language --out vectors", "a small model, every adversarial case"),
            ("export config.json --peer hf --out vectors", "another implementation's configuration"),
            ("export config.json --peer hf --probe --weights F --out probe", "of real weights, in kilobytes"),
            ("export --pack pack", "every kind of model, and each operation"),
            ("export perceiver-io/language --audit", "which deviations its cases tell apart"),
        ),
        "0 when it is done, with --audit 1 when a deviation is not told apart, 2 for bad input",
    ),
    Command(
        "explain",
        "parameters, FLOPs and memory of a model, layer by layer",
        (
            ("explain perceiver-io/imagenet-fourier", "a published model"),
            ("explain config.json --peer hf --inputs 2048 --batch 8", "another implementation's configuration"),
        ),
    ),
    Command(
        "train",
        "train a small model, end to end: a recipe, or one of your own data",
        (
            ("train", "the table of recipes"),
            ("train digits --out digits --resume", "go on where it was stopped"),
            ("train digits --quick", "a form of seconds"),
            ("train classify --data wine.csv --out wine", "rows of a table by their class"),
            ("train generate --text book.txt --out book --layers 3", "go on with a text of your own"),
        ),
        "0 when the threshold is reached, 1 when it is missed, 2 for bad input",
    ),
    Command(
        "predict",
        "a saved model on data from a file",
        (
            ("predict wine/model.npz new.csv --output classes.csv", "the class of each row"),
            ("predict model.npz inputs.npy --output outputs.npz", "outputs of any model"),
            ("predict language/model.npz masked.txt", "a text with [MASK] for each byte to be filled in"),
        ),
    ),
    Command(
        "generate",
        "a saved model goes on with a text",
        (
            ("generate book/model.npz --prompt 'It was'", "200 bytes"),
            ("generate book/model.npz --prompt A --temperature 0 --most 40", "the likeliest ones"),
        ),
    ),
    Command(
        "info",
        "versions, BLAS, threads and GPU",
        (("info", "for people"), ("info --json info.json", "for a bug report")),
    ),
)
