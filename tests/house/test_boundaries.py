"""The law of imports: who may import what, for every pair of rooms, and what a run loads."""

import ast
import json
import subprocess
import sys
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from support import ROOT, Run
from support.house import EXPORTER, FOLDERS, RUNTIME

HEAVY = {"torch", "transformers", "modelscope", "onnx", "onnxscript", "onnx_ir", "vit_export"}

SEEN_BY_THE_EXPORTER = {
    *("artefact", "engine", "errors", "images", "options", "outputs", "sources"),
    "text_embedder",  # what a text tower is held against PyTorch through
    "cli",  # what command lines share
    "machine.atomic",
    "machine.output_file",  # what a command may write over
    "machine.installation",  # what to type for an extra
    "providers.availability",  # ONNX Runtime, as it is imported with its telemetry off
    "providers.sessions",  # the session setting that keeps int8 products exact
    "providers.tensors",  # normalized pixels
    "providers.tensorrt",  # the profile that Triton's configuration repeats
}

PACKAGES = {name: sorted(folder.rglob("*.py")) for name, folder in FOLDERS.items()}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports: by a statement, at its top or in a function, or by name."""
    found = set(imported_by_name(path))
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def imported_by_name(path: Path) -> list[str]:
    """The names that a file gives to import_module or __import__; "?" for one that is computed."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if called in ("import_module", "__import__"):
                name = node.args[0] if node.args else None
                found.append(str(name.value) if isinstance(name, ast.Constant) else "?")
    return found


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def room_of(path: Path, package: str) -> str:
    """The folder right below the package, or the file's own name where it stands there."""
    return path.relative_to(FOLDERS[package]).parts[0].removesuffix(".py")


def modules(package: str) -> dict[str, Path]:
    """Every file of a package by its dotted name."""
    found = {}
    for path in PACKAGES[package]:
        parts = path.relative_to(FOLDERS[package].parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def module_of(name: str, known: dict[str, Path]) -> str | None:
    """The module that an imported name is, or lies in."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


@pytest.mark.parametrize(
    ("package", "order"), [("vit_engine", RUNTIME), ("vit_export", EXPORTER)], ids=PACKAGES
)
def test_imports_go_down(package: str, order: tuple[str, ...]) -> None:
    for path in PACKAGES[package]:
        room = room_of(path, package)
        if room == "__init__":  # the public face, which re-exports from anywhere
            continue
        assert room in order, f"{path}: room {room} has no place in the law"
        allowed = {room, *order[order.index(room) + 1 :]}
        for name in imports(path):
            if name.startswith(f"{package}."):
                other = name.split(".")[1]
                assert other in allowed, f"{path} imports {name}: {room} stands below {other}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle(package: str) -> None:
    """Within rooms too: taking away what imports nothing that is left must leave nothing."""
    known = modules(package)
    edges = {
        name: {module_of(i, known) for i in imports(path) if i.startswith(package)} - {name, None}
        for name, path in known.items()
        if name != package
    }
    while free := [name for name, targets in edges.items() if not targets & edges.keys()]:
        for name in free:
            del edges[name]
    assert not edges, f"a circle among {sorted(edges)}"


def test_the_server_and_the_cluster_do_not_know_each_other() -> None:
    for path in PACKAGES["vit_engine"]:
        if room_of(path, "vit_engine") == "server":
            assert not any(name.startswith("vit_engine.cluster") for name in imports(path)), path


def test_what_the_exporter_sees_of_the_runtime() -> None:
    for path in PACKAGES["vit_export"]:
        for name in imports(path):
            if name.startswith("vit_engine."):
                _, room, *rest = name.split(".")
                seen = {room, ".".join([room, *rest[:1]])}
                assert seen & SEEN_BY_THE_EXPORTER, f"{path} imports {name}"


def test_the_runtime_never_imports_the_heavy_side() -> None:
    for path in PACKAGES["vit_engine"]:
        assert not roots(path) & HEAVY, path


def test_local_imports_keep_heavy_or_optional_libraries_away() -> None:
    """An import within a function hides no circle: what it loads is heavy, or optional."""
    allowed = {
        "vit_engine.commands.infer: vit_engine.cluster",  # Ray's
        "vit_engine.commands.serve: vit_engine.server",  # uvicorn's, Starlette's and gRPC's
        "vit_export.cli: vit_export",  # torch's world, once the command line is understood
    }
    for package in PACKAGES:
        for name, path in modules(package).items():
            for function in ast.walk(tree_of(path)):
                if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                for node in ast.walk(function):
                    if isinstance(node, ast.ImportFrom) and node.module:
                        ours = node.module.startswith(("vit_engine", "vit_export"))
                        excused = any(f"{name}: {node.module}".startswith(a) for a in allowed)
                        assert not ours or excused, f"{path}: {node.module} within a function"


def test_modules_are_imported_by_name_in_known_places_alone() -> None:
    """What is computed could be any module, which no other test of the law would see."""
    allowed = {
        "vit_engine",  # the public face, whose names are looked up when they are asked for
        "vit_engine.cli.exit_codes",  # the module of the command that is started
    }
    found = {
        name
        for package in PACKAGES
        for name, path in modules(package).items()
        if "?" in imported_by_name(path)
    }
    assert found == allowed


def test_the_plug_in_points_lead_somewhere() -> None:
    """What pyproject.toml names is imported by name too, and must be there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"scripts": project["scripts"]} | project["entry-points"]
    for target in (t for group in groups.values() for t in group.values()):
        module, _, function = target.partition(":")
        tree = tree_of(modules(module.partition(".")[0])[module])
        named = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        named |= {ast.unparse(n.targets[0]) for n in tree.body if isinstance(n, ast.Assign)}
        assert function in named, target


def test_rooms_are_small_and_names_are_told_apart() -> None:
    sizes = Counter(p.parent for paths in PACKAGES.values() for p in paths if p.stem != "__init__")
    crowded = {str(folder): n for folder, n in sizes.items() if n > 10}
    assert not crowded
    every = [p for paths in PACKAGES.values() for p in paths]
    names = Counter(p.name for p in every if p.stem != "__init__")
    assert not [name for name, n in names.items() if n > 1]


@pytest.mark.parametrize("name", ["artefact/contract.py", "errors.py", "machine/atomic.py"])
def test_the_contract_needs_the_standard_library_alone(name: str) -> None:
    path = ROOT / "runtime/vit_engine" / name
    assert roots(path) <= set(sys.stdlib_module_names) | {"vit_engine"}


def test_one_file_imports_modelscope() -> None:
    users = [p.name for p in PACKAGES["vit_export"] if "modelscope" in roots(p)]
    assert users == ["hub.py"]


def test_nothing_imports_a_command_line() -> None:
    lines = {"vit_export.cli"} | {
        f"vit_engine.commands.{n}" for n in ("infer", "eval", "doctor", "serve")
    }
    for path in (*PACKAGES["vit_engine"], *PACKAGES["vit_export"]):
        assert not {name.rpartition(".")[0] for name in imports(path)} & lines, path


def loaded(script: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found: list[str] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_a_run_of_the_runtime_loads_nothing_heavy() -> None:
    found = loaded("""
import json, sys
sys.argv = ["vit-infer", "-m", "demo", "examples"]
from vit_engine.commands.infer import main
assert main() == 0
print(json.dumps([name.partition(".")[0] for name in sys.modules]))
""")
    assert "onnxruntime" in found
    assert not set(found) & (HEAVY | {"openvino", "ray", "pyarrow", "pandas", "requests"})
    assert not set(found) & {"uvicorn", "starlette", "asyncio"}


@pytest.mark.parametrize(
    "module",
    [
        "vit_engine.commands.infer",
        "vit_engine.commands.eval",
        "vit_engine.commands.serve",
        "vit_export.cli",
    ],
)
def test_importing_is_free(module: str) -> None:
    """Importing a command line loads no library of seconds."""
    found = loaded(f"""
import json, sys
import {module}
print(json.dumps([name.partition(".")[0] for name in sys.modules]))
""")
    slow = {"torch", "transformers", "modelscope", "onnx", "onnxscript", "onnxruntime", "uvicorn"}
    assert not set(found) & slow


@pytest.mark.parametrize("command", ["vit-export", "vit-infer", "vit-eval"])
def test_help_and_bad_usage(command: str, run_command: Run) -> None:
    shown = run_command(command, "--help")
    assert shown.returncode == 0
    assert "exit codes: 0 done" in shown.stdout
    refused = run_command(command, "--no-such-option")
    assert refused.returncode == 2
    assert refused.stdout == ""
