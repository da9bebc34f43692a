"""The tables of versions in the documentation agree with the installed Airflow."""

from __future__ import annotations

import re
import sys
from importlib.metadata import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import Asset, BaseHook, BaseOperatorLink, Context

from airflow_provider_dicom import compat
from airflow_provider_dicom.assets.dicom_store import create_asset
from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
from airflow_provider_dicom.links.dicom_store import EXPORT_LINKS
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.provider_info import get_provider_info
from rig.environments import MATRIX
from rig.releases import chosen_release
from rig.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = (ROOT / "docs" / "versions.md").read_text()
TABLES = [
    [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    for block in PAGE.split("\n\n")
    if block.startswith("|")
]
(FEATURE_HEAD, _, *FEATURE_ROWS), (PYTHON_HEAD, _, *PYTHON_ROWS) = TABLES
FEATURES = {row[0]: row[1:] for row in FEATURE_ROWS}
PYTHONS = {row[0]: row[1:] for row in PYTHON_ROWS}
INSTALLED = ".".join(map(str, chosen_release().line))


def is_in_sdk(*names: str) -> bool:
    """Tell whether ``airflow.sdk`` has all these names."""
    if find_spec("airflow.sdk") is None:
        return False
    import airflow.sdk

    return all(hasattr(airflow.sdk, name) for name in names)


def asset_of(dataset_id: str) -> bool:
    """Tell whether a DICOM store of a dataset can be an asset."""
    try:
        asset = create_asset(project_id="p", location="l", dataset_id=dataset_id, dicom_store_id="s")
    except ValueError:
        return False
    return isinstance(asset, Asset)


def is_supported_python(version: str) -> bool:
    """Tell whether the installed Airflow and the matrix admit a Python."""
    admitted = metadata("apache-airflow")["Requires-Python"]
    below = re.search(r"<\s*3\.(\d+)", admitted)
    ours = {environment.python for environment in MATRIX if environment.airflow == INSTALLED}
    return version in ours and (below is None or int(version[2:]) < int(below[1]))


def keeps_task_state() -> bool:
    """Tell whether Airflow keeps values between the tries of a task."""
    return "task_state_store" in getattr(Context, "__annotations__", {})


#: What decides each feature; other tests try the features themselves.
PROBES: dict[str, Callable[[], bool]] = {
    "export, deferred": lambda: callable(DicomStoreExportOperator.execute_complete),
    "a kill, a clear": lambda: callable(compat.task_state) and callable(DicomStoreExportOperator.on_kill),
    "no second submission": lambda: "durable" in DicomStoreExportOperator.__init__.__annotations__,
    "a retry or a cleared": keeps_task_state,
    "a task that is cleared after its success": keeps_task_state,
    "extra links": lambda: all(isinstance(link, BaseOperatorLink) and link.xcom_key for link in EXPORT_LINKS),
    "the connection type": lambda: (
        issubclass(DicomStoreHook, BaseHook) and bool(DicomStoreHook.test_connection)
    ),
    "lineage": lambda: find_spec("airflow.providers.openlineage") is not None,
    "`dicomstore://` URIs of assets": lambda: asset_of("d") and bool(get_provider_info()["dataset-uris"]),
    "`dicomstore://` URIs of stores": lambda: asset_of("日本"),
    "the tab": lambda: compat.HAS_TASK_VIEWS,
    "nightly runs": lambda: is_in_sdk("CronPartitionTimetable", "PartitionedAssetTimetable"),
    "retry policies": lambda: is_in_sdk("ExceptionRetryPolicy", "DeadlineAlert"),
}


def test_every_feature_of_the_version_tables_has_a_probe() -> None:
    assert FEATURE_HEAD[1:] == PYTHON_HEAD[1:] == ["2.11", "3.1", "3.2", "3.3"]
    found = {feature: [name for name in PROBES if feature.startswith(name)] for feature in FEATURES}
    assert [len(names) for names in found.values()] == [1] * len(PROBES)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature[:20])
def test_version_table_lists_the_features_of_the_installed_airflow(feature: str) -> None:
    (probe,) = [probe for name, probe in PROBES.items() if feature.startswith(name)]
    assert probe() == (FEATURES[feature][FEATURE_HEAD.index(INSTALLED) - 1] == "yes")


@pytest.mark.parametrize("python", PYTHONS)
def test_version_table_agrees_with_the_matrix_and_the_installed_airflow(python: str) -> None:
    support = PYTHONS[python][PYTHON_HEAD.index(INSTALLED) - 1]
    # A Python of the matrix that no machine had is supported and "not tested".
    wanted = {"tested", "not tested"} if is_supported_python(python) else {"not supported by Airflow"}
    assert support in wanted


def test_version_table_calls_the_installed_python_tested() -> None:
    assert list(PYTHONS) == [f"3.{minor}" for minor in range(11, 15)]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert PYTHONS[version][PYTHON_HEAD.index(INSTALLED) - 1] == "tested"
