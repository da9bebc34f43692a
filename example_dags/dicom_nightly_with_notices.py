"""Exports a DICOM store every night; alerts on missed deadlines and skips pointless retries.

- If the night's run has not ended by 06:00, a mail is sent while the run goes on.
- Errors that a retry cannot repair fail the task at once: a missing role, or instances
  that failed for causes that the next try would meet again.
- An exhausted quota is retried after a longer pause than other errors.

The alert and the retry policy need Airflow 3.3; in an older Airflow, the export runs
without them. The mail is sent through the Airflow connection ``smtp_default`` to the
address in the environment variable ``DICOM_NOTIFY``.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

# With Airflow 3.3 only: `from airflow.sdk import DAG, Param`, and no `try` below.
from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_dicom.exceptions import (
    DicomExportOperationFailedError,
    DicomExportPermissionError,
    DicomExportQuotaExhaustedError,
    DicomExportTooManyFailuresError,
)
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

# A run without a logical date (Airflow 3: of the API, of an asset, a cleared date) has no `ds`.
DAY = "{{ ds if ds is defined else dag_run.run_after | ds }}"
of_the_dag: dict[str, Any] = {}
of_the_task: dict[str, Any] = {}
try:
    from airflow.sdk import (
        AsyncCallback,
        DeadlineAlert,
        DeadlineReference,
        ExceptionRetryPolicy,
        RetryAction,
        RetryDecision,
        RetryRule,
    )
except ImportError:
    pass
else:
    # Numbers of google.rpc.Code: INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED.
    permanent = {3, 5, 12}

    class StopEarly(ExceptionRetryPolicy):
        """Does not retry if all known causes of failed instances are permanent."""

        def evaluate(self, exception: BaseException, *args: Any, **kwargs: Any) -> RetryDecision:
            """Decide by the causes, else by the rules."""
            failures = getattr(exception, "failures", None)
            causes = failures["causes"] if failures else []
            if causes and all(cause["code"] in permanent for cause in causes):
                return RetryDecision.fail(f"{causes[0]['count']} x {causes[0]['message']}")
            return super().evaluate(exception, *args, **kwargs)

    of_the_dag["deadline"] = DeadlineAlert(
        # Runs start at 02:00, and users need the data at 06:00.
        reference=DeadlineReference.DAGRUN_LOGICAL_DATE,
        interval=timedelta(hours=4),
        callback=AsyncCallback(
            "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
            kwargs={
                "from_email": os.environ.get("DICOM_NOTIFY_FROM", "airflow@example.org"),
                "to": os.environ.get("DICOM_NOTIFY", "radiology-data@example.org"),
                # `dag_run` is the run as Airflow's REST API describes it.
                "subject": "DICOM export {{ dag_run.dag_run_id }} is late",
                "html_content": "The nightly export has not ended yet. It goes on; its page in Airflow, tab "
                "<i>DICOM export</i>, tells how far it is and how long it will take.",
            },
        ),
    )
    # Airflow never retries an invalid request or a missing resource: no rule is needed.
    of_the_task["retry_policy"] = StopEarly(
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


def offered(variable: str, default: str) -> Param:
    """Offer the values of a comma-separated environment variable; the first one is the default."""
    values = os.environ.get(variable, default).split(",")
    return Param(values[0], type="string", enum=values)


with DAG(
    dag_id="dicom_nightly_with_notices",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={
        "location": offered("DICOM_LOCATION", "europe-west3"),
        "dataset": offered("DICOM_DATASET", "radiology"),
        "store": offered("DICOM_STORE", "pacs"),
        "bucket": offered("DICOM_BUCKET", "my-dicom-exports"),
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
        destination=f"gs://{{{{ params.bucket }}}}/dicom/{DAY}/",
        # A few invalid files do not fail the night; more than one in a hundred do.
        max_failures=0.01,
        execution_timeout=timedelta(hours=6),
        **of_the_task,
    )
