"""Exports a DICOM store every night, and tells people early when that goes wrong.

- If the night's run has not ended by 06:00, a mail goes out while there is time to act: the run goes on.
- What a retry cannot mend fails at once: a missing role, too many instances that cannot be exported.
- A quota that is used up is waited for, longer than other troubles.

All of this needs Airflow 3.3; with an older one, the export runs without it. The mail goes through the
Airflow connection ``smtp_default`` to the address in the variable ``DICOM_NOTIFY`` of the environment.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

# Where there is only Airflow 3.3: `from airflow.sdk import DAG`, and the imports below without the `try`.
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dicom.exceptions import (
    DicomExportOperationFailedError,
    DicomExportPermissionError,
    DicomExportQuotaExhaustedError,
    DicomExportTooManyFailuresError,
)
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

of_the_dag: dict[str, Any] = {}
of_the_task: dict[str, Any] = {}
try:
    from airflow.sdk import (
        AsyncCallback,
        DeadlineAlert,
        DeadlineReference,
        ExceptionRetryPolicy,
        RetryAction,
        RetryRule,
    )
except ImportError:
    pass
else:
    of_the_dag["deadline"] = DeadlineAlert(
        # The runs are for 02:00; by 06:00 the morning's work needs the data.
        reference=DeadlineReference.DAGRUN_LOGICAL_DATE,
        interval=timedelta(hours=4),
        callback=AsyncCallback(
            "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
            kwargs={
                "from_email": os.environ.get("DICOM_NOTIFY_FROM", "airflow@example.org"),
                "to": os.environ.get("DICOM_NOTIFY", "radiology-data@example.org"),
                # Here, dag_run is what Airflow's REST API tells of the run.
                "subject": "DICOM export {{ dag_run.dag_run_id }} is late",
                "html_content": "The nightly export has not ended yet. It goes on; its page in Airflow, tab "
                "<i>DICOM export</i>, tells how far it is and how long it will take.",
            },
        ),
    )
    # What is wrong with the request or not to be found is never retried, without any rule.
    of_the_task["retry_policy"] = ExceptionRetryPolicy(
        rules=[
            RetryRule(
                exception=DicomExportPermissionError,
                action=RetryAction.FAIL,
                reason="A role is missing: the error names the command that grants it",
            ),
            RetryRule(
                exception=DicomExportTooManyFailuresError,
                action=RetryAction.FAIL,
                reason="The same instances would fail again: see the export's logs",
            ),
            RetryRule(
                exception=DicomExportQuotaExhaustedError,
                retry_delay=timedelta(minutes=30),
                reason="The project's quota is used up for the moment",
            ),
            RetryRule(
                exception=DicomExportOperationFailedError,
                retry_delay=timedelta(minutes=15),
                reason="The Healthcare API gave the export up",
            ),
        ]
    )

with DAG(
    dag_id="dicom_nightly_with_notices",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={
        "location": os.environ.get("DICOM_LOCATION", "europe-west3"),
        "dataset": os.environ.get("DICOM_DATASET", "radiology"),
        "store": os.environ.get("DICOM_STORE", "pacs"),
        "bucket": os.environ.get("DICOM_BUCKET", "my-dicom-exports"),
    },
    tags=["dicom"],
    doc_md=__doc__,
    **of_the_dag,
) as dag:
    DicomStoreExportOperator(
        task_id="export",
        location="{{ params.location }}",
        dataset_id="{{ params.dataset }}",
        dicom_store_id="{{ params.store }}",
        destination="gs://{{ params.bucket }}/dicom/{{ ds }}/",
        # A scanner's odd files do not spoil the night; more than one in a hundred do.
        max_failures=0.01,
        execution_timeout=timedelta(hours=6),
        **of_the_task,
    )
