"""The layers of the local Healthcare API, and that its tests do not use the provider's code."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = "airflow_provider_dicom"
EMULATOR = f"{PACKAGE}.emulator"
#: From the bottom up; the modules beside the folders are below all of them, but for ``__main__``.
LAYERS = ["models", "imaging", "exports", "handlers", "server", "__main__"]


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, under ``TYPE_CHECKING`` and in functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if file_of(name) is not None}


def file_of(module: str) -> Path | None:
    """Return the file of a module of this repository; None if there is none."""
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def layer(module: str) -> int:
    folder = module.removeprefix(EMULATOR).removeprefix(".").split(".")[0]
    return LAYERS.index(folder) if folder in LAYERS else -1


def test_emulator_imports_only_from_its_lower_layers() -> None:
    upward = []
    for path in sorted((ROOT / PACKAGE / "emulator").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        upward += [
            f"{module} imports {name}"
            for name in sorted(imported(path))
            if name.startswith(f"{EMULATOR}.") and layer(name) > layer(module)
        ]
    assert not upward


def test_emulator_tests_never_import_the_provider() -> None:
    tests = [folder / "emulator" for folder in (ROOT / "tests" / "unit", ROOT / "tests" / "integration")]
    above = {parent for folder in tests for parent in folder.parents if parent.is_relative_to(ROOT)}
    conftests = [path for folder in above for path in folder.glob("conftest.py")]
    waiting = [*conftests, *(path for folder in tests for path in folder.rglob("*.py"))]
    seen: set[Path] = set()
    provider = []
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported(path):
            if name.startswith(f"{PACKAGE}.") and not f"{name}.".startswith(f"{EMULATOR}."):
                provider.append(f"{path.relative_to(ROOT)} imports {name}")
            elif not name.startswith(PACKAGE):
                waiting.append(file_of(name) or path)
    assert len(seen) > len(conftests)
    assert not provider
