"""The floors of the house: imports go down, and light files stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {"device_bench": 0, "exporters": 1, "edgebert": 2}
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "litert_torch", "ai_edge_litert", "ai_edge_quantizer",
         "safetensors", "pandas", "altair", "datasets", "pyarrow", "ray"}
PLANNING = ("errors", "spec", "device", "cost", "tables", "plan", "knapsack", "searching", "choice", "data", "tasks",
            "data_kinds", "alignment", "answers", "metrics", "tokenization", "bundle", "evidence", "request",
            "layout", "inspecting", "benching", "cache", "progress", "derive", "published", "profile_reader",
            "sweep_design", "sweeping", "results", "calibrating", "cli_device",
            "profile_checks", "profile_text", "profile_new", "remote_facts", "cli_native",
            "interop.benchmark_model", "interop.onnxruntime_profile", "interop.optimum", "interop.records",
            "interop.runtime_config", "fronts", "explaining", "given", "cli_front", "cli_explain", "cli_build",
            "breakdown", "verdict", "stored", "refine", "study",
            "fleet", "pool", "cli_report",
            "provenance", "signing", "checkpoint_files", "cli_sign",
            "expected", "runlog",
            "lengths", "elf", "claim", "reproducing", "cli_reproduce", "doctor",
            "cli_doctor", "config", "cli_config", "hub", "cli_push", "data_sets", "cli", "cli_plan", "cli_files",
            "cli_profiles", "demo.__init__")
FILES = [path for name in FLOORS for path in sorted((ROOT / name).rglob("*.py"))]


def top_level_imports(path: Path) -> set[str]:
    """Dotted names imported when the file itself is imported, outside functions and TYPE_CHECKING."""
    found: set[str] = set()

    def walk(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                walk(node.orelse)
            elif isinstance(node, (ast.If, ast.Try, ast.With)):
                walk([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])

    walk(ast.parse(path.read_text(encoding="utf-8")).body)
    return found


def all_imports(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {name for node in nodes for name in (
        [alias.name for alias in node.names] if isinstance(node, ast.Import) else
        [node.module or ""] if isinstance(node, ast.ImportFrom) else [])}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_floor_imports_a_higher_one(path):
    own = FLOORS[path.relative_to(ROOT).parts[0]]
    higher = {name for name in all_imports(path) if FLOORS.get(name.split(".")[0], -1) > own}
    assert not higher, f"{path.name} imports {higher} from a floor above"


@pytest.mark.parametrize("name", PLANNING)
def test_the_planning_half_names_nothing_heavy_at_its_top(name):
    heavy = {module for module in top_level_imports(ROOT / "edgebert" / f"{name.replace('.', '/')}.py")
             if module.split(".")[0] in HEAVY | {"scipy", "tokenizers"}}
    assert not heavy


@pytest.mark.parametrize("path", [p for p in FILES if "device_bench" in p.parts], ids=lambda p: p.name)
def test_device_bench_parses_on_python_3_9(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_planning_runs_with_every_heavy_module_blocked():
    """Indirect imports too: a child process in which importing any heavy package fails plans the demo task."""
    script = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {sorted(HEAVY)!r}:
            raise ModuleNotFoundError(f'blocked: {{name}}', name=name)
sys.meta_path.insert(0, Block())
sys.argv = ['edgebert', 'fit-device', '--profile', 'pixel6', '--dry-run']
from edgebert.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Plan for pixel6" in done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_no_remote_code_no_shell(path):
    text = path.read_text(encoding="utf-8")
    names = all_imports(path)
    assert not names & {"pickle", "cPickle", "dill", "joblib", "marshal"}
    assert "trust_remote_code=True" not in text and "shell=True" not in text
    assert "torch.load(" not in text and "torch.save(" not in text


def test_files_stay_small():
    long = {p.name: n for p in FILES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 320}
    assert not long


def test_no_module_hides_a_public_name():
    """Importing edgebert.NAME sets the attribute NAME of the package, in place of the function of that name."""
    import edgebert

    modules = {path.stem for path in (ROOT / "edgebert").iterdir()}
    assert not modules & set(edgebert.__all__)
