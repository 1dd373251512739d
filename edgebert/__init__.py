"""edgebert turns a fine-tuned BERT into the best model that fits a phone.

The names below are the public API; each is imported when first used, so that `import edgebert` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgebert.benching import bench
    from edgebert.bundle import Verification, verify
    from edgebert.cache import Cache
    from edgebert.choice import choose_plan
    from edgebert.cost import Estimate, estimate
    from edgebert.data import Columns, Dataset, load_dataset
    from edgebert.device import Budget, DeviceProfile, list_profiles, load_profile
    from edgebert.errors import EdgeBertError
    from edgebert.explaining import Explanation, explain
    from edgebert.exporting import export
    from edgebert.fronts import pareto
    from edgebert.inspecting import Inspection, inspect
    from edgebert.modeling import EdgeBertConfig, EdgeBertForSequenceClassification
    from edgebert.pipeline import FitResult, fit_device
    from edgebert.plan import CompressionPlan
    from edgebert.progress import Reporter
    from edgebert.request import FitRequest
    from edgebert.searching import Infeasible, front, search
    from edgebert.spec import EncoderShape, LayerSpec, SubnetSpec
    from edgebert.tables import ErrorTables

_HOMES = {
    "bench": "benching", "Verification": "bundle", "verify": "bundle", "Cache": "cache", "choose_plan": "choice",
    "Estimate": "cost", "estimate": "cost", "Columns": "data", "Dataset": "data", "load_dataset": "data",
    "Budget": "device", "DeviceProfile": "device", "list_profiles": "device", "load_profile": "device",
    "EdgeBertError": "errors", "Explanation": "explaining", "explain": "explaining", "export": "exporting",
    "pareto": "fronts", "Inspection": "inspecting", "inspect": "inspecting",
    "EdgeBertConfig": "modeling", "EdgeBertForSequenceClassification": "modeling", "FitResult": "pipeline",
    "fit_device": "pipeline", "CompressionPlan": "plan", "Reporter": "progress", "FitRequest": "request",
    "Infeasible": "searching", "front": "searching", "search": "searching", "EncoderShape": "spec", "LayerSpec": "spec",
    "SubnetSpec": "spec", "ErrorTables": "tables",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgebert' has no attribute {name!r}")
    return getattr(import_module(f"edgebert.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
