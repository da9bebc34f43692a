"""The nightly example DAGs against a real Google project; `make test-system` says what it needs."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from rig.airflow import AirflowStandalone
from rig.contract import RESULT_KEYS
from rig.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The DICOM store with its dataset, location and project, a bucket, and a table in a dataset that exists.
NEEDED = [f"DICOM_SYSTEM_{name}" for name in ("PROJECT", "LOCATION", "DATASET", "STORE", "BUCKET", "TABLE")]
MISSING = [name for name in NEEDED if not os.environ.get(name)]
CONNECTION = "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT"
HOUR = 3600

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"needs a real Google project; not set: {', '.join(MISSING)}"
)


def setting(name: str) -> str:
    """What the environment says."""
    return os.environ[f"DICOM_SYSTEM_{name}"]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStandalone]:
    """A real Airflow with the credentials of the environment: the connection, else the default ones."""
    folder = tmp_path_factory.mktemp("system")
    shutil.copytree(ROOT / "example_dags", folder / "dags")
    default = json.dumps({"conn_type": "google_cloud_platform", "extra": {"project": setting("PROJECT")}})
    credentials = {CONNECTION: os.environ.get(CONNECTION, default)}
    with AirflowStandalone(folder / "home", folder / "dags", credentials) as airflow:
        yield airflow


def run(airflow: AirflowStandalone, dag_id: str, **destination: str) -> dict[str, Any]:
    """Run an example, and return the export's result."""
    store = {name.lower(): setting(name) for name in ("LOCATION", "DATASET", "STORE")}
    now = datetime.now(UTC).isoformat()
    run_id = airflow.rest.trigger(dag_id, store | destination, logical_date=now)
    state = airflow.rest.wait(dag_id, run_id, timeout=HOUR)
    assert state == "success", airflow.rest.log(dag_id, run_id, "export")
    result: dict[str, Any] = airflow.rest.xcom(dag_id, run_id, "export")
    assert result.keys() == RESULT_KEYS
    assert (result["state"], result["failure"], result["pending"]) == ("SUCCEEDED", 0, 0)
    assert result["success"] > 0, "the DICOM store is empty"
    return result


def test_nightly_export_to_cloud_storage_writes_one_file_per_instance(airflow: AirflowStandalone) -> None:
    from google.cloud.storage import Client  # type: ignore[import-untyped]

    result = run(airflow, "dicom_nightly_to_gcs", bucket=setting("BUCKET"))
    bucket, _, prefix = result["destination"].removeprefix("gs://").partition("/")
    written = {blob.name for blob in Client(setting("PROJECT")).list_blobs(bucket, prefix=prefix)}
    assert len(written) == result["success"], "one file for each instance"


def test_nightly_export_to_bigquery_writes_one_row_per_instance(airflow: AirflowStandalone) -> None:
    from google.cloud.bigquery import Client

    result = run(airflow, "dicom_nightly_to_bigquery", table=setting("TABLE"))
    table = result["destination"].removeprefix("bq://")
    query = f"SELECT COUNT(DISTINCT SOPInstanceUID) FROM `{table}`"
    ((count,),) = Client(setting("PROJECT")).query(query).result()
    assert count == result["success"]
