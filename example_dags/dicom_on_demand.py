"""Exports a DICOM store, or some of its studies, when a person fills in the Trigger form.

The defaults in the form come from the environment. Credentials and project come from the
Airflow connection ``google_cloud_default``.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

# With Airflow 3 only: `from airflow.sdk import DAG, Param, task`.
from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

BUCKET = os.environ.get("DICOM_BUCKET", "my-dicom-exports")
TABLE = os.environ.get("DICOM_TABLE", "my-project.radiology.dicom_metadata")
ID = r"^[\w.-]{1,256}$"

FORMS = {
    None: "As stored",
    "application/dicom; transfer-syntax=1.2.840.10008.1.2.1": "Explicit VR Little Endian (uncompressed)",
    "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "application/dicom; transfer-syntax=1.2.840.10008.1.2.5": "RLE lossless",
    "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50": "JPEG baseline (lossy)",
    "image/png": "PNG pictures",
    "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50": "JPEG pictures (lossy)",
}
DISPOSITIONS = {
    "WRITE_EMPTY": "Only write to an empty or a new table",
    "WRITE_TRUNCATE": "Replace the table",
    "WRITE_APPEND": "Add to the table",
}
SCHEMAS = {"flattened": "A column for each DICOM attribute", "json": "One JSON column with all attributes"}

# Parameters without a section are in the first one.
FILES, ROWS, PART = (
    {"section": name} for name in ("Files (gs://)", "Rows (bq://)", "Only a part of the DICOM store")
)
PARAMS = {
    "location": Param(
        os.environ.get("DICOM_LOCATION", "europe-west3"),
        title="Location",
        description="Where the dataset is.",
        type="string",
        pattern=r"^[a-z0-9-]+$",
        examples=["europe-west3", "europe-west4", "us-central1", "us", "asia-northeast1"],
    ),
    "dataset": Param(
        os.environ.get("DICOM_DATASET", "radiology"),
        title="Dataset",
        description="The dataset's id.",
        type="string",
        pattern=ID,
    ),
    "store": Param(
        os.environ.get("DICOM_STORE", "pacs"),
        title="DICOM store",
        description="The DICOM store's id.",
        type="string",
        pattern=ID,
    ),
    "destination": Param(
        f"gs://{BUCKET}/on-demand/",
        title="Destination",
        description_md="A folder, `gs://bucket/folder/`, or a table, `bq://project.dataset.table`.",
        type="string",
        pattern=r"^(gs://[a-z0-9][a-z0-9._-]+[a-z0-9](/.*)?|bq://[a-z0-9.:-]+\.\w+\.[^./\s]+)$",
        examples=[f"gs://{BUCKET}/on-demand/", f"bq://{TABLE}"],
    ),
    "max_failures": Param(
        0,
        title="Instances that may fail",
        description="If more of them cannot be exported, the run fails.",
        type="integer",
        minimum=0,
    ),
    "form": Param(
        None,
        title="Form of the files",
        description="What the files are converted to, if the destination is a folder.",
        type=["null", "string"],
        enum=list(FORMS),
        values_display={"None" if form is None else form: text for form, text in FORMS.items()},
        **FILES,
    ),
    "write_disposition": Param(
        "WRITE_EMPTY",
        title="If the table has rows already",
        type="string",
        enum=list(DISPOSITIONS),
        values_display=DISPOSITIONS,
        **ROWS,
    ),
    "schema": Param(
        "flattened",
        title="Columns",
        type="string",
        enum=list(SCHEMAS),
        values_display=SCHEMAS,
        **ROWS,
    ),
    "studies": Param(
        None,
        title="Studies, series or instances",
        description_md="One path a line, like `/studies/1.2.3/series/4.5.6`. Empty: the whole DICOM store.",
        type=["null", "array"],
        items={"type": "string", "pattern": r"^/studies/[0-9.]+(/series/[0-9.]+(/instances/[0-9.]+)?)?$"},
        **PART,
    ),
    "list_bucket": Param(
        BUCKET,
        title="Bucket for this list",
        description="The list is written there, and the Healthcare API reads it from there.",
        type="string",
        pattern=r"^[a-z0-9][a-z0-9._-]+[a-z0-9]$",
        **PART,
    ),
}

with DAG(
    dag_id="dicom_on_demand",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params=PARAMS,
    tags=["dicom"],
    doc_md=__doc__,
) as dag:

    @task
    def request(params: dict[str, Any], run_id: str) -> list[dict[str, Any]]:
        """Turn the form into the operator's arguments, which differ for a folder and a table."""
        chosen = {
            "location": params["location"],
            "dataset_id": params["dataset"],
            "dicom_store_id": params["store"],
            "destination": params["destination"],
            "max_failures": params["max_failures"],
        }
        if params["destination"].startswith("bq://"):
            chosen["write_disposition"] = params["write_disposition"]
            chosen["bigquery_schema"] = params["schema"]
        elif params["form"]:
            chosen["mime_type"] = params["form"]
        if params["studies"]:
            chosen["resource_paths"] = params["studies"]
            chosen["filter_uri"] = f"gs://{params['list_bucket']}/lists/{run_id}.txt"
        return [chosen]

    # Mapped, so that arguments are optional and the task has a telling name.
    DicomStoreExportOperator.partial(
        task_id="export",
        map_index_template="{{ task.dicom_store_id }} to {{ task.destination }}",
        execution_timeout=timedelta(hours=6),
    ).expand_kwargs(request())
