"""JSON Schemas of the files that edgebert reads and writes, made from the records that hold their content.

A field of a record becomes a property, its type the property's schema, the record's docstring the description; what a
file says otherwise than its record is said here. `make_reference.py` writes them.
"""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]
PLAIN: dict[Any, Schema] = {int: {"type": "integer"}, float: {"type": "number"}, str: {"type": "string"},
                            bool: {"type": "boolean"}, type(None): {"type": "null"}, Any: {}}
SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
RANGES = {"type": "string", "pattern": "^\\s*[0-9]+(-[0-9]+)?(\\s*,\\s*[0-9]+(-[0-9]+)?)*\\s*$"}
WIDTHS = {"type": "object", "propertyNames": {"pattern": "^[0-9]+$"}, "additionalProperties": {"type": "number"}}


def schema_of(kind: Any, own: Mapping[Any, Schema], names: Mapping[str, Any]) -> Schema:
    """The schema of JSON values of a type. own: type -> schema of those written otherwise than field by field. names:
    what annotations name that their module imports for type checkers alone. TypeError for a type that no file holds."""
    if kind in own:
        return own[kind]
    if kind in PLAIN:
        return PLAIN[kind]
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    inner = lambda one: schema_of(one, own, names)  # noqa: E731
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [inner(part) for part in parts]}
    if origin is typing.Literal:
        return {"enum": list(parts)}
    if origin is tuple and parts[-1] is Ellipsis:
        return {"type": "array", "items": inner(parts[0])}
    if origin is tuple:
        return row([inner(part) for part in parts])
    if origin is list:
        return {"type": "array", "items": inner(parts[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": inner(parts[1])}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [one.value for one in kind]}
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind, localns=dict(names))
        needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
        return record({f.name: inner(hints[f.name]) for f in fields(kind)}, needed, kind.__doc__)
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):  # a NamedTuple is an array
        hints = typing.get_type_hints(kind, localns=dict(names))
        items = [{**inner(hints[name]), "title": name} for name in kind._fields]
        return {**row(items), "description": said(kind.__doc__)}
    raise TypeError(f"no schema for {kind!r}")


def record(properties: Mapping[str, Schema], needed: list[str] | None = None, text: str | None = None) -> Schema:
    """An object of exactly these properties; all are needed unless said."""
    made: Schema = {"type": "object", "properties": dict(properties), "additionalProperties": False,
                    "required": list(properties) if needed is None else needed}
    return {"description": said(text), **made} if text else made


def row(items: list[Schema]) -> Schema:
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def said(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").split())


def shape_schema() -> Schema:
    """EncoderShape.to_json: the last fields only where they are not the usual ones."""
    from edgebert.spec import HEAD_ACTIVATIONS, HEADS, MATRICES, EncoderShape

    whole = {"type": "integer", "minimum": 1}
    ranks = {"type": "object", "propertyNames": {"enum": list(MATRICES)}, "additionalProperties": whole}
    stored = record({"qk_dim": {"type": "integer", "minimum": 0}, "ranks": ranks})
    layer = {"type": "array", "prefixItems": [{**whole, "title": "heads"}, {**whole, "title": "ffn"}, stored],
             "minItems": 2, "maxItems": 3}
    sizes = ("hidden", "head_dim", "vocab", "positions", "token_types", "labels")
    return record({**dict.fromkeys(sizes, whole), "layers": {"type": "array", "items": layer, "minItems": 1},
                   "head": {"enum": list(HEADS)}, "head_activation": {"enum": list(HEAD_ACTIVATIONS)},
                   "embedding": whole, "word_rank": whole}, [*sizes, "layers"], EncoderShape.__doc__)


def profile_schema() -> Schema:
    """A profile, as TOML reads it."""
    from edgebert.derive import ISA
    from edgebert.device import FACTS, PERCENTILES, PROVENANCES, RUNTIMES, Budget, Cluster, CostRow, DeviceProfile
    from exporters.artifact import PRECISIONS

    def positive(kind: type, **choices: Any) -> Schema:
        made = schema_of(kind, {}, {})
        for name, value in made["properties"].items():
            if name in choices:
                made["properties"][name] = {"enum": list(choices[name])}
            elif value in ({"type": "integer"}, {"type": "number"}):
                made["properties"][name] = {**value, "minimum": 0}
            elif "anyOf" in value:  # what may be left out is never null in TOML
                made["properties"][name] = {"type": "number", "minimum": 0}
        return made

    text, number = {"type": "string"}, {"type": "number", "exclusiveMinimum": 0}
    whole = {"type": "integer", "minimum": 1}
    rows = positive(CostRow, runtime=RUNTIMES, precision=PRECISIONS, provenance=PROVENANCES)
    needed = [f.name for f in fields(DeviceProfile) if f.name not in ("rows", "affinity", "clusters")]
    return record({
        "name": text, "title": text, "machine": {"enum": ["aarch64", "x86_64"]},
        "isa": {"type": "array", "items": {"enum": sorted(ISA)}}, "ram_mb": whole, "bandwidth_gbs": number,
        "threads": whole, "p90_over_p50": {"type": "number", "minimum": 1},
        "sources": record(dict.fromkeys(FACTS, text), [fact for fact in FACTS if fact != "affinity"]),
        "affinity": {"type": "object", "propertyNames": {"pattern": "^[1-9][0-9]*$"},
                     "additionalProperties": {"type": "string", "pattern": "^0x[0-9a-fA-F]+$"}},
        "budget": positive(Budget, percentile=PERCENTILES),
        "cluster": {"type": "array", "items": positive(Cluster), "minItems": 1},
        "cost": {"type": "array", "items": rows}}, [*needed, "cluster"], DeviceProfile.__doc__)


def plan_schema() -> Schema:
    """plan.json: what a person may edit; indices as ranges, layers of the source as "12x1536"."""
    from edgebert.cost import Estimate
    from edgebert.device import RUNTIMES, Budget
    from edgebert.knapsack import Bound
    from edgebert.plan import SCHEMA, CompressionPlan
    from edgebert.spec import MATRICES
    from exporters.artifact import PRECISIONS

    whole, stored = {"type": "integer", "minimum": 1}, {"enum": list(PRECISIONS)}
    widths = {"heads": whole, "ffn": whole, "attention_precision": stored, "ffn_precision": stored, "kept_heads": RANGES,
              "kept_neurons": RANGES}
    layer = record({"layer": {"type": "integer", "minimum": 0}, **widths, "qk_dim": whole, "ranks": {
        "type": "object", "propertyNames": {"enum": list(MATRICES)}, "additionalProperties": whole}}, ["layer", *widths])
    source = shape_schema()
    source["properties"]["layers"] = {"type": "array", "minItems": 1,
                                      "items": {"type": "string", "pattern": "^[0-9]+x[0-9]+$"}}
    values = {"schema": {"const": SCHEMA}, "profile": {"type": "string"}, "runtime": {"enum": list(RUNTIMES)},
              "threads": whole, "lengths": {"type": "array", "items": {"type": "integer", "minimum": 2}, "minItems": 1},
              "budget": schema_of(Budget, {}, {}), "estimate": schema_of(Estimate, {}, {}),
              "predicted_error": {"type": "number"}, "bound": schema_of(Bound, {}, {}),
              "embedding_precision": {"type": "string"}, "head_precision": {"type": "string"},
              "layers": {"type": "array", "items": layer, "minItems": 1}, "source": source,
              "provenance": {"type": "object", "additionalProperties": {"type": "string"}}}
    return record({**values, "word_rank": whole, "hidden": whole}, list(values), CompressionPlan.__doc__)


def manifest_schema() -> Schema:
    """manifest.json: a list of the files, and facts of the run, of which later versions may add more."""
    from edgebert.bundle import SCHEMA

    text = {"type": "string"}
    made = record({"schema": {"const": SCHEMA}, "name": text, "created": {"type": "string", "format": "date-time"},
                   "command": text, "seed": {"type": "integer"}, "profile": text, "task": text,
                   "checkpoint_sha256": SHA256, "data_sha256": SHA256,
                   "versions": {"type": "object", "additionalProperties": text},
                   "files": {"type": "object", "minProperties": 1, "additionalProperties": record(
                       {"sha256": SHA256, "bytes": {"type": "integer", "minimum": 0}})}},
                  ["schema", "command", "versions", "files"],
                  "What a bundle is made of: sha256 and bytes of every file but this one, versions, command, seed.")
    return {**made, "additionalProperties": True}


def tables_schema() -> Schema:
    """tables.json: error tables."""
    from edgebert.spec import MATRICES
    from edgebert.tables import SCHEMA, ErrorTables

    text, number, whole = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
    errors = {"heads": WIDTHS, "ffn": WIDTHS, "drop": number, "int8_attention": number, "int8_ffn": number}
    layer = record({**errors, "qk_dim": WIDTHS, "ranks": {"type": "object", "propertyNames": {"enum": list(MATRICES)},
                                                          "additionalProperties": WIDTHS}}, list(errors))
    order = {"type": "array", "items": {"type": "array", "items": whole, "uniqueItems": True}}
    values = {"schema": {"const": SCHEMA}, "source": shape_schema(), "metric": text, "criterion": text,
              "layers": {"type": "array", "items": layer, "minItems": 1}, "int8_embedding": number, "head_order": order,
              "neuron_order": order, "rows": whole, "length": whole, "model_sha256": text, "data_sha256": text}
    return record({**values, "word_ranks": WIDTHS, "hidden": WIDTHS, "int4_embedding": number, "tokens": {
        **WIDTHS, "additionalProperties": whole}}, list(values), ErrorTables.__doc__)


def results_schema() -> Schema:
    """results.json: everything that a run measured."""
    from edgebert.choice import UnderRuntime
    from edgebert.cost import Estimate
    from edgebert.evidence import SCHEMA, Evidence
    from edgebert.lengths import Cut, Served
    from edgebert.spec import EncoderShape
    from exporters.execution import Execution

    names = {kind.__name__: kind for kind in (UnderRuntime, Estimate, Cut, Served, Execution)}
    made = schema_of(Evidence, {EncoderShape: shape_schema()}, names)
    made["properties"]["schema"] = {"const": SCHEMA}
    return {**made, "required": ["schema", *made["required"]]}


def record_schema() -> Schema:
    """One line of `edgebert bench --json`, `bench.pyz` and the records that --verify-on keeps."""
    from device_bench.energy import Energy
    from device_bench.reading import OLDEST
    from device_bench.result import SCHEMA, BenchResult
    from device_bench.timing import Timing

    energy = schema_of(Energy, {}, {})
    energy["properties"]["joules_per_inference"] = {"type": "number"}
    made = schema_of(BenchResult, {Energy: energy, Timing: {}}, {})
    kept = {name: value for name, value in made["properties"].items() if name != "timing"}
    texts, number = {"type": "array", "items": {"type": "string"}}, {"type": "number"}
    maybe = {"anyOf": [number, {"type": "null"}]}
    derived = {"valid": {"type": "boolean"}, "valid_as_cost": {"type": "boolean"}, "reasons": texts, "warnings": texts,
               "emulated": {"anyOf": [{"type": "string"}, {"type": "null"}]},
               **dict.fromkeys(("p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "min_ms", "spread", "drift",
                                "sustained_drift"), maybe),
               "runs": {"type": "integer", "minimum": 1}, "warmup_runs": {"type": "integer", "minimum": 0}}
    kept |= {"schema": {"enum": list(range(OLDEST, SCHEMA + 1))}, "sha256": SHA256, "clock": {"enum": ["wall", "cpu"]},
             "samples_ns": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}}
    # What is derived is computed again from the samples when a record is read, so a runner need not write it.
    needed = ["schema", "samples_ns", *(name for name in made["required"] if name != "timing")]
    return record({**kept, **derived}, needed, BenchResult.__doc__)


SCHEMAS: dict[str, tuple[str, Callable[[], Schema]]] = {
    "profile": ("A device: `profiles/*.toml`, read as TOML", profile_schema),
    "plan": ("A plan: `plan.json`, `--dry-run --json`, what `edgebert build` takes", plan_schema),
    "manifest": ("`manifest.json` of a bundle", manifest_schema),
    "results": ("`results.json` of a bundle: everything measured in a run", results_schema),
    "tables": ("Error tables: `tables.json` of a bundle", tables_schema),
    "record": ("A benchmark record: a line of `edgebert bench --json` and of `bench.pyz`", record_schema),
}
"""Name -> what it is of, and the function that makes it."""


def schemas(kinds: Mapping[str, tuple[str, Callable[[], Schema]]]) -> dict[str, Schema]:
    return {name: {"$schema": DIALECT, "title": title, **make()} for name, (title, make) in kinds.items()}
