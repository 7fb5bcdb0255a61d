"""The law of imports: who may import what, and what a run of the runtime loads."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, Run

HEAVY = {"torch", "transformers", "modelscope", "onnx", "onnxscript", "onnx_ir", "vit_export"}
PACKAGES = {
    "vit_engine": sorted((ROOT / "runtime/vit_engine").rglob("*.py")),
    "vit_export": sorted((ROOT / "export/vit_export").rglob("*.py")),
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", PACKAGES["vit_engine"], ids=lambda p: p.name)
def test_the_runtime_never_imports_the_heavy_side(path: Path) -> None:
    assert not roots(path) & HEAVY


@pytest.mark.parametrize("name", ["artefact/contract.py", "errors.py"])
def test_the_contract_needs_the_standard_library_alone(name: str) -> None:
    path = ROOT / "runtime/vit_engine" / name
    assert roots(path) <= set(sys.stdlib_module_names) | {"vit_engine"}


def test_one_file_imports_modelscope() -> None:
    users = [p.name for p in PACKAGES["vit_export"] if "modelscope" in roots(p)]
    assert users == ["hub.py"]


def test_nothing_imports_a_command_line() -> None:
    for path in (*PACKAGES["vit_engine"], *PACKAGES["vit_export"]):
        assert not imports(path) & {"vit_engine.commands.infer", "vit_export.cli"}, path


def test_a_run_of_the_runtime_loads_nothing_heavy() -> None:
    script = """
import json, sys
sys.argv = ["vit-infer", "-m", "demo", "examples"]
from vit_engine.commands.infer import main
code = main()
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    code, loaded = json.loads(ended.stdout.splitlines()[-1])
    assert code == 0
    assert not set(loaded) & (HEAVY | {"ray", "pyarrow", "pandas", "requests"})


@pytest.mark.parametrize("module", ["vit_engine", "vit_engine.commands.infer", "vit_export.cli"])
def test_importing_is_free(module: str) -> None:
    """Importing a package, or its command line, loads no library of seconds."""
    script = f"""
import sys
import {module}
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    slow = {"torch", "transformers", "modelscope", "onnx", "onnxscript", "onnxruntime"}
    assert not set(ended.stdout.split()) & slow


@pytest.mark.parametrize("command", ["vit-export", "vit-infer"])
def test_help_and_bad_usage(command: str, run_command: Run) -> None:
    shown = run_command(command, "--help")
    assert shown.returncode == 0
    assert "exit codes: 0 done" in shown.stdout
    refused = run_command(command, "--no-such-option")
    assert refused.returncode == 2
    assert refused.stdout == ""
