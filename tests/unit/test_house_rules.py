"""Rules of this code base that no linter knows."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook, DicomStoreHook
from airflow_provider_dicom.operators.check import DicomStoreExportCheckOperator
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.operators.selection import (
    DicomHighWaterMarkOperator,
    DicomMetadataQueryOperator,
    DicomStoreSearchOperator,
)
from airflow_provider_dicom.provider_info import get_provider_info
from airflow_provider_dicom.sensors.dicom_store import DicomStoreExportSensor
from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger
from rig.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.providers.common.compat.sdk import BaseOperator

PACKAGE = ROOT / "airflow_provider_dicom"
MODULES = sorted(PACKAGE.rglob("*.py"))
#: The folders of the package from the ground up: a folder imports only from those before it. The modules at
#: the package's root are the ground, but for the metadata; the emulator stands apart.
LAYERS = [
    "api",
    "longrunning",
    "selection",
    "lineage",
    "links",
    "assets",
    "hooks",
    "triggers",
    "operators",
    "sensors",
    "plugins",
    "provider_info",
    "doctor",
    "__main__",
]
MOST_ROOT_MODULES = 10
MOST_LINES = 400
TEMPLATED: list[type[BaseOperator]] = [
    DicomStoreExportOperator,
    DicomStoreExportSensor,
    DicomStoreExportCheckOperator,
    DicomStoreSearchOperator,
    DicomMetadataQueryOperator,
    DicomHighWaterMarkOperator,
]
PUBLIC: list[type] = [*TEMPLATED, DicomStoreExportTrigger, DicomStoreHook, DicomStoreAsyncHook]
#: Airflow's own clock, which talks to nobody.
UNCONNECTED = ["TimeDeltaTrigger"]
CONNECTION = {"gcp_conn_id", "impersonation_chain", "api_endpoint"}


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(ROOT).with_suffix("").parts)


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Return the package's modules that a file imports, under ``TYPE_CHECKING`` and in functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (named & modules) or {node.module}
    return found & modules


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The imports among the package's modules, by the importing module."""
    modules = {name_of(path).removesuffix(".__init__"): path for path in MODULES}
    return {name: imported_modules(path, set(modules)) - {name} for name, path in modules.items()}


def layer_of(module: str) -> int:
    """Return the index of a module's layer; -1 is the ground."""
    folder = f"{module}.".split(".")[1]
    return LAYERS.index(folder) if folder in LAYERS else -1


def is_emulator(module: str) -> bool:
    return f"{module}.".startswith(f"{PACKAGE.name}.emulator.")


def test_folders_import_only_from_the_layers_below(imports: dict[str, set[str]]) -> None:
    upward = [
        f"{module} imports {imported}"
        for module, targets in imports.items()
        for imported in targets
        if not is_emulator(module) and layer_of(imported) > layer_of(module)
    ]
    assert not upward


def test_the_emulator_and_the_provider_do_not_import_each_other(imports: dict[str, set[str]]) -> None:
    ground = PACKAGE.name
    crossing = [
        f"{module} imports {imported}"
        for module, targets in imports.items()
        for imported in targets - {ground}
        if is_emulator(module) != is_emulator(imported)
    ]
    assert not crossing


def test_package_has_no_import_circles(imports: dict[str, set[str]]) -> None:
    # A circle is raised as a CycleError that names its modules.
    order = [*TopologicalSorter(imports).static_order()]
    assert set(order) == set(imports)


def test_few_modules_lie_at_the_root_of_the_package() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_ROOT_MODULES


@pytest.mark.parametrize(
    "folder", ["airflow_provider_dicom", "rig", "demo", "benchmarks", "tests", "example_dags"]
)
def test_files_have_less_than_400_lines(folder: str) -> None:
    lines = {str(path): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {path: count for path, count in lines.items() if count >= MOST_LINES} == {}


def test_class_names_of_tests_and_rig_are_unique() -> None:
    defined = Counter(
        node.name
        for folder in ("rig", "demo", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in defined.items() if count > 1] == []


def calls(tree: ast.AST, attribute: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == attribute
        ):
            yield node


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_every_parameter_is_documented(cls: type) -> None:
    # Airflow wraps a task's __init__; what is wrapped has the signature.
    parameters = set(inspect.signature(inspect.unwrap(cls.__init__)).parameters)  # type: ignore[misc]
    documented = re.findall(r":param (\w+):", inspect.getdoc(cls) or "")
    assert sorted(documented) == sorted(parameters - {"self", "args", "kwargs"})


@pytest.mark.parametrize("cls", TEMPLATED, ids=lambda cls: cls.__name__)
def test_templated_parameters_are_documented_as_templated(cls: type[BaseOperator]) -> None:
    descriptions = dict(re.findall(r":param (\w+):((?:.|\n(?!\s*:))*)", inspect.getdoc(cls) or ""))
    templated = {name for name, text in descriptions.items() if "(templated)" in text}
    assert templated == set(cls.template_fields)


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_public_methods_are_documented(cls: type) -> None:
    own = [member for name, member in vars(cls).items() if inspect.isfunction(member) and name[0] != "_"]
    assert own
    for method in own:
        documented = set(re.findall(r":param (\w+):", inspect.getdoc(method) or ""))
        parameters = {name for name in inspect.signature(method).parameters if name[0] != "_"}
        assert parameters - {"self"} == documented, method.__qualname__


@pytest.mark.parametrize("cls", TEMPLATED, ids=lambda cls: cls.__name__)
def test_templated_fields_are_assigned_only_in_init(cls: type[BaseOperator]) -> None:
    """Airflow renders in between: what is assigned elsewhere is rendered too early, or never."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(cls)))  # type: ignore[arg-type]
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function.name == "__init__":
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                assert node.attr not in cls.template_fields, f"{function.name}: {ast.unparse(node)}"


def test_templated_fields_are_assigned_unchanged() -> None:
    """An expression would be worked out before the template is rendered."""
    for cls in TEMPLATED:
        tree = ast.parse(
            inspect.getsource(inspect.unwrap(vars(cls)["__init__"])).replace("\n    ", "\n").strip()
        )
        assigned = {
            target.attr: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Attribute)
        }
        for field in cls.template_fields:
            assert ast.unparse(assigned[field]) == field


def test_every_deferral_passes_the_whole_connection() -> None:
    deferrals = [
        call
        for module in MODULES
        for call in calls(ast.parse(module.read_text()), "defer")
        if ast.unparse(call.func) != "super().defer"
    ]
    assert deferrals
    for deferral in deferrals:
        (trigger,) = [keyword.value for keyword in deferral.keywords if keyword.arg == "trigger"]
        assert isinstance(trigger, ast.Call)
        if ast.unparse(trigger.func) in UNCONNECTED:
            continue
        passed = {keyword.arg or ast.unparse(keyword.value) for keyword in trigger.keywords}
        assert passed >= CONNECTION or "self.connection_arguments" in passed


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_no_bare_airflow_exception_is_raised(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert "AirflowException(" not in ast.unparse(node.exc)


def test_provider_info_names_every_module_of_a_kind() -> None:
    info = get_provider_info()
    for kind in ("hooks", "operators", "sensors", "triggers"):
        named = {module for entry in info[kind] for module in entry["python-modules"]}
        there = {name_of(module) for module in (PACKAGE / kind).glob("[!_]*.py")}
        assert named == there
    linked = {link.rpartition(".")[0] for link in info["extra-links"]}
    assert linked == {name_of(module) for module in (PACKAGE / "links").glob("[!_]*.py")}
