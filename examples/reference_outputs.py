"""JSON Schemas of what commands print with --json, where that is no file of its own. `make_reference.py` writes them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from reference_schemas import SHA256, Schema, record, record_schema, schema_of, shape_schema

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _facts(kind: type, **more: Schema) -> Schema:
    """A record, all of whose fields are printed, and what else is beside them."""
    made = schema_of(kind, {}, {})
    return {**made, "properties": {**made["properties"], **more}, "required": [f.name for f in fields(kind)] + list(more)}


def inspect_schema() -> Schema:
    from edgebert.inspecting import Inspection

    return record({"target": TEXT, "kind": {"enum": ["checkpoint", "plan", "bundle", "onnx", "tflite"]},
                   "shape": _or_null(shape_schema()), "length": WHOLE, "params": _or_null(WHOLE), "macs": _or_null(WHOLE),
                   "files": {"type": "object", "additionalProperties": WHOLE}}, text=Inspection.__doc__)


def verify_schema() -> Schema:
    return record({"bundle": TEXT, "ok": {"const": True},
                   "checks": {"type": "object", "additionalProperties": TEXT, "minProperties": 1}},
                  text="What was checked, and what was found; where something differs the command ends with exit code 4.")


def doctor_schema() -> Schema:
    from edgebert.doctor import Finding

    return record({"ok": {"type": "boolean"}, "findings": _list(_facts(Finding))}, text=Finding.__doc__)


def compare_schema() -> Schema:
    from device_bench.compare import SCHEMA, Comparison, Ratio

    return record({"schema": {"const": SCHEMA}, "valid": {"type": "boolean"}, "reasons": _list(TEXT), "sentence": TEXT,
                   "names": {**_list(TEXT), "minItems": 2, "maxItems": 2}, "times_as_fast": _or_null(_facts(Ratio)),
                   "a": record_schema(), "b": record_schema()}, text=Comparison.__doc__)


def front_schema() -> Schema:
    from edgebert.device import PERCENTILES, RUNTIMES

    tails = {f"{name}_ms": NUMBER for name in PERCENTILES}
    values = {"profile": TEXT, "runtime": {"enum": list(RUNTIMES)}, "threads": WHOLE, "tokens": WHOLE,
              "latency_ms": NUMBER, "latency_error_pct": NUMBER, "latency_provenance": TEXT, "predicted_error": NUMBER,
              "file_mb": NUMBER, "memory_mb": NUMBER, "precision": TEXT,
              "layers": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9]+x[0-9]+$"}}}
    return record({**values, **tails}, list(values), "One plan that nothing beats: heads x neurons of each kept layer.")


def explain_schema() -> Schema:
    from edgebert.cost import Estimate
    from edgebert.explaining import Bought, Explanation, LayerReasons, Limit

    other = _or_null(record({"differs": TEXT, "predicted_error": NUMBER, "estimate": _facts(Estimate)}))
    return record({"profile": TEXT, "runtime": TEXT, "estimate": _facts(Estimate), "predicted_error": NUMBER,
                   "limits": _list(_facts(Limit, binds={"type": "boolean"})), "layers": _list(_facts(LayerReasons)),
                   "bought": _list(_facts(Bought)), "best": other, "runner_up": other, "notes": _list(TEXT)},
                  text=Explanation.__doc__)


def export_schema() -> Schema:
    from exporters.parity import Check

    checked = _facts(Check)
    checked["properties"]["value"] = _or_null(NUMBER)
    file = record({"file": TEXT, "format": {"enum": ["onnx", "tflite", "coreml"]}, "precision": TEXT, "bytes": WHOLE,
                   "sha256": SHA256})
    return record({"folder": TEXT, "files": _list(file),
                   "parity": record({"ok": {"const": True}, "checks": _list(checked)})},
                  text="The files written, and what they were proven by.")


def calibrate_schema() -> Schema:
    from edgebert.device import CostRow

    return record({"profile": TEXT, "rows": _list(_facts(CostRow, timings=WHOLE))},
                  text="The profile written, and its measured rows with how many timings each was fitted to.")


def reproduce_schema() -> Schema:
    return record({"bundle": TEXT, "same": _list(TEXT), "words": _list(TEXT), "other_versions": _list(TEXT)},
                  text="Files with the same bytes as then, what was run, and packages of another version than then.")


def push_schema() -> Schema:
    from edgebert.hub import Pushed

    return {**_facts(Pushed), "description": Pushed.__doc__}


def profiles_schema() -> Schema:
    from edgebert.device import DeviceProfile

    return _list(_facts(DeviceProfile))


OUTPUTS: dict[str, tuple[str, Any]] = {
    "inspect": ("Printed by `edgebert inspect --json`", inspect_schema),
    "verify": ("Printed by `edgebert verify --json`", verify_schema),
    "doctor": ("Printed by `edgebert doctor --json`", doctor_schema),
    "compare": ("A line of `edgebert compare --json`", compare_schema),
    "front": ("A line of `edgebert front --json`", front_schema),
    "explain": ("Printed by `edgebert explain --json`", explain_schema),
    "export": ("Printed by `edgebert export --json`", export_schema),
    "calibrate": ("Printed by `edgebert calibrate --json`", calibrate_schema),
    "reproduce": ("Printed by `edgebert reproduce --json`", reproduce_schema),
    "push": ("Printed by `edgebert push --json`", push_schema),
    "profiles": ("Printed by `edgebert profiles --json`", profiles_schema),
}
"""Name -> what it is of, and the function that makes it."""
