"""Exports a DICOM store, or some of its studies, when a person fills in the Trigger form.

The right to trigger this DAG is the right to export. The form offers the DICOM stores,
buckets and tables that the deployment lists in environment variables, separated by commas;
nobody who triggers the DAG can choose others. Credentials and project come from the Airflow
connection ``google_cloud_default``.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

# With Airflow 3 only: `from airflow.sdk import DAG, Param, task`.
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, Param, task

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator


def listed(variable: str, default: str) -> list[str]:
    """Return the values of a comma-separated environment variable; the form's default is the first one."""
    return os.environ.get(variable, default).split(",")


LOCATIONS = listed("DICOM_LOCATION", "europe-west3")
DATASETS = listed("DICOM_DATASET", "radiology")
STORES = listed("DICOM_STORE", "pacs")
BUCKETS = listed("DICOM_BUCKET", "my-dicom-exports")
TABLES = listed("DICOM_TABLE", "my-project.radiology.dicom_metadata")
DESTINATIONS = [*(f"gs://{bucket}/on-demand/" for bucket in BUCKETS), *(f"bq://{table}" for table in TABLES)]

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
        LOCATIONS[0], title="Location", description="Where the dataset is.", type="string", enum=LOCATIONS
    ),
    "dataset": Param(
        DATASETS[0], title="Dataset", description="The dataset's id.", type="string", enum=DATASETS
    ),
    "store": Param(
        STORES[0], title="DICOM store", description="The DICOM store's id.", type="string", enum=STORES
    ),
    "destination": Param(
        DESTINATIONS[0],
        title="Destination",
        description_md="A folder, `gs://bucket/folder/`, or a table, `bq://project.dataset.table`.",
        type="string",
        enum=DESTINATIONS,
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
    "folder": Param(
        None,
        title="Folder below the destination",
        description="Letters, digits, '-' and '_'.",
        type=["null", "string"],
        pattern=r"^[A-Za-z0-9_-]{1,100}$",
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
        # What a person writes is never a template. Anything that could begin one is refused.
        if any("{" in str(value) for value in (*params.values(), run_id)):
            raise AirflowFailException("The form, or the run's id, holds a '{'; accepted: values without it.")
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
        else:
            if params["form"]:
                chosen["mime_type"] = params["form"]
            if params["folder"]:
                chosen["destination"] += f"{params['folder']}/"
        if params["studies"]:
            chosen["resource_paths"] = params["studies"]
            # The Healthcare API reads the list from there.
            chosen["filter_uri"] = f"gs://{BUCKETS[0]}/lists/{run_id}.txt"
        return [chosen]

    # Mapped, so that arguments are optional and the task has a telling name.
    DicomStoreExportOperator.partial(
        task_id="export",
        map_index_template="{{ task.dicom_store_id }} to {{ task.destination }}",
        execution_timeout=timedelta(hours=6),
    ).expand_kwargs(request())
