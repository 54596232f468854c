"""The schema of `meta`, of docs/VECTORS.md. Keys that are not here change nothing, and are allowed."""

from __future__ import annotations

from typing import Any

from perceiver_ref.porting.cases.case import DTYPES
from perceiver_ref.porting.cases.generator import DTYPES as ARRAY_DTYPES
from perceiver_ref.porting.cases.generator import KINDS, MOST_EXPONENT
from perceiver_ref.porting.cases.samples import MOST, VERSION

from . import DRAFT

NUMBER = {"type": "number", "exclusiveMinimum": 0, "maximum": 1000}
SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 32}
COUNT = {"type": "integer", "minimum": 0}


def schema() -> dict[str, Any]:
    """docs/schemas/meta.json."""
    return {
        "$schema": DRAFT,
        "title": "meta of a case of the vector format, version 1",
        "type": "object",
        "required": ["peer", "class", "config", "dtype"],
        "properties": {
            "case": {"type": "string"},
            "peer": {"type": "string"},
            "peer_version": {"type": ["string", "null"]},
            "class": {"type": "string"},
            "config": {"type": "object", "description": "by class in config/<peer>.json"},
            "call": {"type": "object"},
            "dtype": {"enum": list(DTYPES)},
            "seed": {},
            "flags": {"type": "array", "items": {"type": "string"}},
            "catches": {"type": "string"},
            "notes": {},
            "tied": {"type": "object", "additionalProperties": {"type": "string"}},
            "tolerance": {
                "type": "object",
                "properties": {"output": NUMBER, "gradient": NUMBER},
                "additionalProperties": False,
            },
            "compare_gradients": {"type": "boolean"},
            "arrays": {"type": "array", "items": {"type": "string"}},
            "excerpt": {
                "type": "object",
                "required": ["case", "peer", "class", "point"],
                "properties": {key: {"type": "string"} for key in ("case", "peer", "class", "point")},
            },
            "probe": {"$ref": "#/$defs/probe"},
            "sampled": _sampled(0, "trace"),
        },
        "$defs": {"probe": _probe(), "array": _array()},
    }


def _sampled(least: int, groups: str) -> dict[str, Any]:
    """What samples are of: at least so many of an array, and of which groups of arrays."""
    return {
        "type": "object",
        "required": ["version", "seed", "samples", "arrays"],
        "properties": {
            "version": {"const": VERSION},
            "seed": {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1},
            "samples": {"type": "integer", "minimum": least, "maximum": MOST},
            "arrays": {
                "type": "object",
                "propertyNames": {"pattern": f"^({groups})/"},
                "additionalProperties": {
                    "type": "object",
                    "required": ["shape", "dtype"],
                    "properties": {"shape": SHAPE, "dtype": {"enum": sorted(ARRAY_DTYPES)}},
                },
            },
        },
    }


def _probe() -> dict[str, Any]:
    named = {"type": ["object", "null"], "additionalProperties": {"$ref": "#/$defs/array"}}
    shared = _sampled(1, "output|trace|grad_param|grad_input")
    return {
        **shared,
        "properties": {
            **shared["properties"],
            "inputs": named,
            "params": named,
            "cotangents": named,
            "weights": {
                "type": ["object", "null"],
                "required": ["sha256", "arrays", "elements"],
                "properties": {
                    "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                    "arrays": COUNT,
                    "elements": COUNT,
                },
            },
        },
    }


def _array() -> dict[str, Any]:
    """How an array of a probe is made."""
    needs = [
        {"if": {"properties": {"kind": {"const": kind}}}, "then": {"required": [row.needs]}}
        for kind, row in KINDS.items()
        if row.needs
    ]
    return {
        "type": "object",
        "required": ["shape", "kind"],
        "properties": {
            "shape": SHAPE,
            "kind": {"enum": list(KINDS)},
            "dtype": {"enum": sorted(ARRAY_DTYPES)},
            "exponent": {"type": "integer", "minimum": -MOST_EXPONENT, "maximum": MOST_EXPONENT},
            "modulus": {"type": "integer", "minimum": 1},
            "value": {"type": "number"},
        },
        "allOf": needs,
    }
