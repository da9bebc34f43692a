"""Exports twice an hour what has arrived in a DICOM store, as its Pub/Sub notifications name it.

The DICOM store sends notifications to a topic. A task collects those that wait in a
subscription, and returns the paths of the instances that have arrived; what was only moved
to another storage class, or deleted, is left out. A notification is acknowledged only after
its instance has been exported: if a run fails, the next run collects it again. Bursts become
one export, because nothing is exported between two runs.

The subscription needs an acknowledgement deadline of ten minutes, and the account of the
connection needs ``roles/pubsub.subscriber`` on it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

# With Airflow 3 only: `from airflow.sdk import DAG, Param, task`.
from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

if TYPE_CHECKING:
    from collections.abc import Callable

ARRIVALS = {"StoreInstances", "ImportDicomData"}
#: The largest number of instances of a run: an XCom holds their paths. The others wait for the next run.
MOST = 20_000
#: How long to wait for further notifications, in seconds, three times in a row.
PATIENCE = 5.0

# A run without a logical date (Airflow 3: of the API, of an asset, a cleared date) has no `ts_nodash`.
TIME = "{{ ts_nodash if ts_nodash is defined else dag_run.run_after | ts_nodash }}"


def offered(variable: str, default: str) -> Param:
    """Offer the values of a comma-separated environment variable; the first one is the default."""
    values = os.environ.get(variable, default).split(",")
    return Param(values[0], type="string", enum=values)


def read_notifications(subscription: str, is_done: Callable[[str | None], bool]) -> list[str]:
    """
    Read the notifications that wait, and return the paths of arrivals.

    A notification is acknowledged if ``is_done`` says so of its path, which is None where nothing arrived;
    all others go back to the subscription.
    """
    from airflow.providers.google.cloud.hooks.pubsub import PubSubHook
    from google.api_core.exceptions import DeadlineExceeded

    project_id, _, name = subscription.partition("/")
    source = {"subscription": f"projects/{project_id}/subscriptions/{name}"}
    client = PubSubHook().subscriber_client
    arrived: dict[str, None] = {}
    left: list[str] = []
    # Pub/Sub may return nothing although notifications wait.
    attempts = 3
    while len(arrived) < MOST and attempts:
        try:
            request = {**source, "max_messages": 1000}
            received = client.pull(request=request, timeout=PATIENCE, retry=None).received_messages
        except DeadlineExceeded:
            received = []
        attempts = 3 if received else attempts - 1
        done: list[str] = []
        for one in received:
            path = None
            if one.message.attributes.get("action") in ARRIVALS:
                path = "/" + one.message.data.decode().partition("/dicomWeb/")[2]
                arrived[path] = None
            (done if is_done(path) else left).append(one.ack_id)
        if done:
            client.acknowledge(request={**source, "ack_ids": done})
    for begin in range(0, len(left), 1000):
        again = {"ack_ids": left[begin : begin + 1000], "ack_deadline_seconds": 0}
        client.modify_ack_deadline(request=source | again)
    return list(arrived)


with DAG(
    dag_id="dicom_on_arrival",
    schedule="*/30 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    # Two concurrent runs would collect the same notifications.
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={
        "location": offered("DICOM_LOCATION", "europe-west3"),
        "dataset": offered("DICOM_DATASET", "radiology"),
        "store": offered("DICOM_STORE", "pacs"),
        "bucket": offered("DICOM_BUCKET", "my-dicom-exports"),
        "subscription": offered("DICOM_SUBSCRIPTION", "my-project/dicom-arrivals"),
    },
    tags=["dicom"],
    doc_md=__doc__,
) as dag:

    @task
    def collect(subscription: str) -> list[str]:
        """Return the paths of what has arrived; its notifications stay in the subscription."""
        return read_notifications(subscription, lambda path: path is None)

    arrived = collect("{{ params.subscription }}")
    # Without arrivals, the list is empty and the task is skipped.
    export = DicomStoreExportOperator(
        task_id="export",
        location="{{ params.location }}",
        dataset_id="{{ params.dataset }}",
        dicom_store_id="{{ params.store }}",
        destination=f"gs://{{{{ params.bucket }}}}/on_arrival/{TIME}/",
        filter_uri=f"gs://{{{{ params.bucket }}}}/filters/on_arrival/{TIME}.txt",
        resource_paths=arrived,
        execution_timeout=timedelta(hours=6),
    )

    @task
    def acknowledge(subscription: str, paths: list[str]) -> int:
        """Acknowledge the notifications of what is exported, and return the number of instances."""
        exported = set(paths)
        read_notifications(subscription, lambda path: path is None or path in exported)
        return len(exported)

    export >> acknowledge("{{ params.subscription }}", arrived)
