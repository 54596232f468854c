"""The schemas of what commands write with --json, of docs/JSON.md. Other keys may be added, and are allowed.

They are written in short: TEXT, NUMBER and so on, [each] for a list, a dict for an object. All keys of an object must
be there, but for those that end with a question mark; `some(x)` may be null, and `named(x)` is an object by any names.
"""

from __future__ import annotations

from typing import Any

from . import DRAFT

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
WHOLE: dict[str, Any] = {"type": "integer", "minimum": 0}
TRUTH: dict[str, Any] = {"type": "boolean"}
ANYTHING: dict[str, Any] = {}


def one(*words: str | None) -> dict[str, Any]:
    """One of these texts."""
    return {"enum": list(words)}


def some(kind: Any) -> dict[str, Any]:
    """That, or null; of a number, what is not finite."""
    return {"anyOf": [kind, {"type": "null"}]}


def named(kind: Any) -> dict[str, Any]:
    """An object by names of any kind."""
    return {"$named": kind}


ERROR = some({**NUMBER, "minimum": 0})
CAUSE = {"cause": TEXT, "variant": TEXT, "remaining": some(NUMBER)}
DEVIATION = {"cause": TEXT, "variant": TEXT}
VERDICTS = ("match", "rounding", "deviation", "unexplained")
FOUND = {
    "first_divergence": some(TEXT),
    "causes": [TEXT],
    "explanation": [CAUSE],
    "others": [[CAUSE]],
    "error": ERROR,
    "expected_rounding": named(ERROR),
    "dtype": some(TEXT),
}
SHAPE = [WHOLE]

REPORTS: dict[str, list[dict[str, Any]]] = {
    "check": [
        {
            "cases": [
                {
                    "path": TEXT,
                    "status": one("pass", "fail", "error"),
                    "output_error": ERROR,
                    "gradient_error": ERROR,
                    "worst": some(TEXT),
                    "reason": TEXT,
                    "message": TEXT,
                    "notes": [TEXT],
                }
            ],
            "passed": WHOLE,
            "failed": WHOLE,
        }
    ],
    "run": [{"output": TEXT, "dtype": TEXT, "shapes": named(SHAPE), "notes": [TEXT]}],
    "convert": [{"output": TEXT, "peer": TEXT, "class": TEXT, "arrays": WHOLE, "parameters": WHOLE, "notes": [TEXT]}],
    "bind": [
        {
            "verified": TRUTH,
            "message": TEXT,
            "parameters": [
                {
                    "path": TEXT,
                    "source": TEXT,
                    "status": one("certain", "ambiguous", "by order", "unknown"),
                    "why": TEXT,
                }
            ],
            "left_over": [TEXT],
            "unmatched": [TEXT],
            "proposed": [
                {
                    "config": named(ANYTHING),
                    "call": named(ANYTHING),
                    "verified": TRUTH,
                    "message": TEXT,
                    "undecided": named([ANYTHING]),
                }
            ],
        }
    ],
    "diagnose": [
        {
            "verdict": one(*VERDICTS),
            **FOUND,
            "unit": TEXT,
            "notes": [TEXT],
            "points": [{"name": TEXT, "error": ERROR, "rounding": named(ERROR), "units": named(ERROR)}],
            "gradients": some(
                {
                    "verdict": one(*VERDICTS, "not checked"),
                    **FOUND,
                    "step": some(TEXT),
                    "affected": [TEXT],
                    "under": [TEXT],
                }
            ),
        }
    ],
    "compare": [
        {
            "reference": TEXT,
            "candidate": TEXT,
            "verdict": one("match", "mismatch"),
            "first_divergence": some(TEXT),
            "error": ERROR,
            "points": [
                {
                    "name": TEXT,
                    "candidate": TEXT,
                    "matched": TEXT,
                    "shape": SHAPE,
                    "dtypes": [TEXT],
                    "max_abs": ERROR,
                    "error": ERROR,
                    "tolerance": ERROR,
                    "ratio": some(NUMBER),
                    "index": some([WHOLE]),
                    "passed": TRUTH,
                    "note": TEXT,
                }
            ],
            "unmatched": {"reference": [TEXT], "candidate": [TEXT]},
            "missing": [TEXT],
            "notes": [TEXT],
        }
    ],
    "export": [
        {
            "folder": some(TEXT),
            "cases": [TEXT],
            "audit?": {
                "told": WHOLE,
                "applicable": WHOLE,
                "complete": TRUTH,
                "models": [
                    {
                        "model": TEXT,
                        "told": WHOLE,
                        "applicable": WHOLE,
                        "score": NUMBER,
                        "cases": [{"case": TEXT, "tried": WHOLE, "told": WHOLE, "skipped": WHOLE, "seconds": NUMBER}],
                        "causes": named({"told": WHOLE, "applicable": WHOLE}),
                        "missed": [{**DEVIATION, "tolerances": NUMBER}],
                        "equal": [{**DEVIATION, "reason": TEXT}],
                        "untried": [DEVIATION],
                        "same": [{"reason": TEXT, "deviations": [DEVIATION]}],
                        "cover": [{"case": TEXT, "adds": WHOLE}],
                    }
                ],
            },
        }
    ],
    "explain": [
        {
            "model": TEXT,
            "batch": WHOLE,
            "dtype": TEXT,
            "inputs": {"anyOf": [{"$list": WHOLE}, named(SHAPE)]},
            "parameters": WHOLE,
            "flops": WHOLE,
            "flops_rule": TEXT,
            "activation_bytes": {"inference": WHOLE, "inference_plain": WHOLE, "training": WHOLE},
            "layers": [
                {
                    "name": TEXT,
                    "repeats": WHOLE,
                    "shape": SHAPE,
                    "parameters": WHOLE,
                    "flops": WHOLE,
                    "activation_bytes": WHOLE,
                }
            ],
            "printed": some({"source": TEXT, "parameters": some(TEXT), "flops": some(TEXT), "remark": TEXT}),
        }
    ],
    "predict": [
        {
            "model": TEXT,
            "inputs": TEXT,
            "task": some(TEXT),
            "predictions?": [{"class": ANYTHING, "probability": NUMBER}],
            "text?": TEXT,
            "shapes?": named(SHAPE),
        }
    ],
    "generate": [{"model": TEXT, "prompt": TEXT, "text": TEXT}],
    "train": [
        {
            "recipes": [
                {
                    **dict.fromkeys(("name", "what", "model", "data", "paper", "metric"), TEXT),
                    "better": one("higher", "lower"),
                    "threshold": NUMBER,
                    "expected": ANYTHING,
                    "minutes": NUMBER,
                }
            ]
        },
        {
            "recipe": TEXT,
            "seed": WHOLE,
            "quick": TRUTH,
            "backend": one("numpy", "cupy"),
            "metric": TEXT,
            "value": some(NUMBER),
            "better": one("higher", "lower"),
            "threshold": some(NUMBER),
            "passed": some(TRUTH),
            "evaluation": named(ANYTHING),
            "baselines": named(ANYTHING),
            "seconds": NUMBER,
            "parameters": WHOLE,
            "steps": WHOLE,
            "machine": ANYTHING,
            "perceiver_ref": TEXT,
            "files?": [TEXT],
        },
    ],
    "info": [
        {
            **dict.fromkeys(("perceiver-ref", "python", "numpy", "scipy", "safetensors", "matplotlib", "tqdm"), TEXT),
            **dict.fromkeys(("blas", "cores", "gpu"), TEXT),
            **dict.fromkeys(("cupy?", "tf32?", "products?"), TEXT),
            **dict.fromkeys(("OMP_NUM_THREADS?", "OPENBLAS_NUM_THREADS?", "MKL_NUM_THREADS?"), TEXT),
        }
    ],
}
"""By command: what it writes, or the several things."""


def schemas() -> dict[str, dict[str, Any]]:
    """Command -> its schema."""
    return {command: _report(command, forms) for command, forms in REPORTS.items()}


def _report(command: str, forms: list[dict[str, Any]]) -> dict[str, Any]:
    head = {"$schema": DRAFT, "title": f"what perceiver-ref {command} writes with --json, version 1"}
    made = [_long({"version": {"const": 1}, **form}) for form in forms]
    return {**head, **made[0]} if len(made) == 1 else {**head, "type": "object", "anyOf": made}


def _long(short: Any) -> dict[str, Any]:
    """A schema written in short, at length."""
    if isinstance(short, list):
        return {"type": "array", "items": _long(short[0])}
    if "$named" in short:
        return {"type": "object", "additionalProperties": _long(short["$named"])}
    if "$list" in short:
        return _long([short["$list"]])
    if "anyOf" in short:
        return {"anyOf": [_long(part) for part in short["anyOf"]]}
    if not short or ("type" in short and isinstance(short["type"], str)) or "enum" in short or "const" in short:
        return dict(short)
    return {
        "type": "object",
        "required": [key for key in short if not key.endswith("?")],
        "properties": {key.removesuffix("?"): _long(value) for key, value in short.items()},
    }
