"""The public names: they exist, with the parameters and defaults that users write."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from typing import Any

import jsonschema
import pytest
from airflow.providers.common.compat.sdk import BaseHook, BaseOperator, BaseOperatorLink, BaseSensorOperator
from airflow.triggers.base import BaseTrigger

from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook, DicomStoreHook
from airflow_provider_dicom.links import dicom_store as links
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.provider_info import get_provider_info
from airflow_provider_dicom.sensors.dicom_store import DicomStoreExportSensor
from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger
from rig.releases import chosen_release

REQUIRED = inspect.Parameter.empty
CONNECTION: dict[str, Any] = {
    "gcp_conn_id": "google_cloud_default",
    "impersonation_chain": None,
    "api_endpoint": None,
}
#: name: (default, templated)
OPERATOR: dict[str, tuple[Any, bool]] = {
    "location": (REQUIRED, True),
    "dataset_id": (REQUIRED, True),
    "dicom_store_id": (REQUIRED, True),
    "project_id": (None, True),
    "destination": (REQUIRED, True),
    "mime_type": (None, True),
    "write_disposition": (None, True),
    "bigquery_schema": (None, True),
    "include_source_store": (None, False),
    "filter_uri": (None, True),
    "resource_paths": (None, True),
    "max_failures": (0, False),
    "list_failures": (True, False),
    "wait_for_completion": (True, False),
    "deferrable": (True, False),
    "poll_interval": (30.0, False),
    "durable": (True, False),
    "cancel_on_kill": (True, False),
    **{name: (default, True) for name, default in CONNECTION.items()},
}


def own_parameters(cls: type) -> dict[str, inspect.Parameter]:
    # Airflow wraps a task's __init__; the wrapped function has the signature.
    parameters = inspect.signature(inspect.unwrap(cls.__init__)).parameters  # type: ignore[misc]
    return {name: p for name, p in parameters.items() if name != "self" and p.kind is not p.VAR_KEYWORD}


def test_parameters_of_the_export_operator() -> None:
    parameters = own_parameters(DicomStoreExportOperator)
    assert {name: p.default for name, p in parameters.items()} == {n: d for n, (d, _) in OPERATOR.items()}
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())
    templated = {name for name, (_, is_templated) in OPERATOR.items() if is_templated}
    assert set(DicomStoreExportOperator.template_fields) == templated
    assert len(DicomStoreExportOperator.template_fields) == len(templated)
    assert issubclass(DicomStoreExportOperator, BaseOperator)


def test_parameters_of_the_trigger() -> None:
    parameters = own_parameters(DicomStoreExportTrigger)
    assert [(name, p.default) for name, p in parameters.items()] == [
        ("operation_name", REQUIRED),
        *CONNECTION.items(),
        ("poll_interval", 30.0),
        ("deadline", None),
        ("cancel_on_kill", True),
    ]
    assert issubclass(DicomStoreExportTrigger, BaseTrigger)


def test_parameters_of_the_sensor() -> None:
    parameters = own_parameters(DicomStoreExportSensor)
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())
    defaults = {name: p.default for name, p in parameters.items()}
    assert defaults["operation_name"] is REQUIRED
    assert CONNECTION.items() <= defaults.items()
    assert issubclass(DicomStoreExportSensor, BaseSensorOperator)


@pytest.mark.parametrize("hook", [DicomStoreHook, DicomStoreAsyncHook])
def test_parameters_of_the_hooks(hook: type) -> None:
    defaults = {name: p.default for name, p in own_parameters(hook).items()}
    assert CONNECTION.items() <= defaults.items()
    assert issubclass(hook, BaseHook)


@pytest.mark.parametrize(
    "method",
    [
        "export",
        "get_operation",
        "list_operations",
        "cancel_operation",
        "get_dicom_store",
        "list_dicom_stores",
        "get_dicom_store_metrics",
        "search",
        "test_iam_permissions",
    ],
)
def test_methods_of_the_sync_hook(method: str) -> None:
    assert inspect.getdoc(getattr(DicomStoreHook, method))


@pytest.mark.parametrize(
    "method", ["get_operation", "list_operations", "cancel_operation", "__aenter__", "__aexit__"]
)
def test_methods_of_the_async_hook(method: str) -> None:
    function = getattr(DicomStoreAsyncHook, method)
    assert inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def test_extra_links_of_the_export_operator() -> None:
    names = ["DicomStoreLink", "DicomExportLogsLink", "DicomExportDestinationLink"]
    kinds = [getattr(links, name) for name in names]
    assert all(issubclass(kind, BaseOperatorLink) for kind in kinds)
    assert [type(link) for link in DicomStoreExportOperator.operator_extra_links] == kinds
    assert len({kind().name for kind in kinds}) == 3
    assert get_provider_info()["extra-links"] == [f"{kind.__module__}.{kind.__name__}" for kind in kinds]


def test_provider_info_matches_airflows_schema_and_the_entry_point() -> None:
    import airflow

    with (importlib.resources.files(airflow) / "provider_info.schema.json").open() as file:
        jsonschema.validate(get_provider_info(), json.load(file))
    (entry_point,) = [
        entry
        for entry in importlib.metadata.entry_points(group="apache_airflow_provider")
        if entry.dist is not None and entry.dist.name == "airflow-provider-dicom"
    ]
    assert entry_point.load()() == get_provider_info()


def test_modules_of_provider_info_hold_a_class_of_their_kind() -> None:
    kinds = {
        "hooks": BaseHook,
        "operators": BaseOperator,
        "sensors": BaseSensorOperator,
        "triggers": BaseTrigger,
    }
    info = get_provider_info()
    integrations = {integration["integration-name"] for integration in info["integrations"]}
    for kind, base in kinds.items():
        for entry in info[kind]:
            assert entry["integration-name"] in integrations
            for name in entry["python-modules"]:
                members = vars(importlib.import_module(name)).values()
                own = [
                    m for m in members if inspect.isclass(m) and m.__module__ == name and issubclass(m, base)
                ]
                assert own, f"{name} has no {base.__name__}"


@pytest.mark.slow
def test_import_of_the_operators_loads_no_http_google_or_pixel_library() -> None:
    """Airflow itself imports some HTTP libraries; only the modules that the operators add count."""
    program = """
import sys, airflow.providers.common.compat.sdk
for name in ("BaseOperator", "BaseSensorOperator", "BaseOperatorLink", "XCom", "PokeReturnValue"):
    getattr(airflow.providers.common.compat.sdk, name)
before = set(sys.modules)
import airflow_provider_dicom.exceptions
import airflow_provider_dicom.links.dicom_store
import airflow_provider_dicom.operators.check
import airflow_provider_dicom.operators.dicom_store
import airflow_provider_dicom.operators.selection
import airflow_provider_dicom.results
import airflow_provider_dicom.sensors.dicom_store
print(*sorted(set(sys.modules) - before))
print(*sorted(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    added, loaded = (set(line.split()) for line in done.stdout.splitlines()[-2:])
    heavy = (
        "requests",
        "aiohttp",
        "urllib3",
        "httpx",
        "google.auth",
        "google.cloud.storage",
        "googleapiclient",
        "pydicom",
        "numpy",
        "PIL",
        "fastapi",
        "pandas",
    )
    for package in heavy:
        assert not any(name == package or name.startswith(f"{package}.") for name in added), package
    if not chosen_release().is_second:  # Airflow 2 itself imports them
        assert not loaded & {"requests", "aiohttp", "google.auth", "pydicom"}
