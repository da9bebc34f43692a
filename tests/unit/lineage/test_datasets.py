"""The names of datasets in OpenLineage."""

from __future__ import annotations

import subprocess
import sys

import pytest

from airflow_provider_dicom.api.destinations import parse_destination
from airflow_provider_dicom.lineage.datasets import dataset_of_destination


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("gs://bucket", ("gs://bucket", "/")),
        ("gs://bucket/nightly/2026/", ("gs://bucket", "nightly/2026")),
        ("bq://p.d.t", ("bigquery", "p.d.t")),
        ("bq://example.com:p.d.t", ("bigquery", "example.com:p.d.t")),
    ],
)
def test_dataset_of_a_destination(destination: str, expected: tuple[str, str]) -> None:
    assert dataset_of_destination(parse_destination(destination)) == expected


@pytest.mark.slow
def test_package_can_be_imported_without_openlineage() -> None:
    program = """
import sys
sys.modules["openlineage"] = sys.modules["airflow.providers.openlineage.extractors"] = None
import airflow_provider_dicom.assets.dicom_store, airflow_provider_dicom.lineage.datasets
import airflow_provider_dicom.hooks.dicom_store, airflow_provider_dicom.operators.dicom_store
import airflow_provider_dicom.sensors.dicom_store, airflow_provider_dicom.triggers.dicom_store
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
