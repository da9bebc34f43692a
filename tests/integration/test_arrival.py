"""The example that exports on arrival, with Google's own Pub/Sub emulator."""

from __future__ import annotations

import runpy
from typing import TYPE_CHECKING, Any

import pytest

from rig.dicom_files import Uids, upload_copies
from rig.pubsub import PROGRAM, PubSubEmulator, publish
from rig.servers import ROOT
from tests.support.provider_fixtures import *  # noqa: F403
from tests.support.task_runs import TaskRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.servers import HealthcareEmulator, StorageEmulator
    from tests.support.provider_fixtures import Connect, ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick")
TOPIC = "projects/test-project/topics/dicom"
SUBSCRIPTION = "test-project/arrivals"


@pytest.fixture
def subscription(server_logs: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A subscription to the topic of the DICOM store's notifications."""
    if not PROGRAM.exists():
        pytest.skip("Google's Pub/Sub emulator is not installed, and no registry of packages has it")
    from google.cloud.pubsub_v1 import (  # type: ignore[import-untyped]
        PublisherClient,
        SubscriberClient,
    )

    with PubSubEmulator(server_logs) as server:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.address)
        connect("google_cloud_default", is_anonymous=True, project="test-project")
        PublisherClient().create_topic(name=TOPIC)
        project, _, name = SUBSCRIPTION.partition("/")
        with SubscriberClient() as subscriber:
            subscriber.create_subscription(
                name=f"projects/{project}/subscriptions/{name}", topic=TOPIC, ack_deadline_seconds=600
            )
        yield SUBSCRIPTION


@pytest.fixture
def tasks() -> Callable[..., Any]:
    """Runs a task of the example that is a function."""
    example = runpy.run_path(str(ROOT / "example_dags" / "dicom_on_arrival.py"))
    example["read_notifications"].__globals__["PATIENCE"] = 1.0
    dag = example["dag"]

    def run(task_id: str, *arguments: object) -> Any:
        return dag.get_task(task_id).python_callable(*arguments)

    return run


def test_notifications_are_acknowledged_only_after_their_instances_are_exported(
    subscription: str,
    tasks: Callable[..., Any],
    operator: ExportOperatorFactory,
    store: DicomStoreName,
    healthcare: HealthcareEmulator,
    bucket: str,
    storage: StorageEmulator,
) -> None:
    uids = [Uids("1.2", "1.2.1", f"1.2.1.{number}") for number in range(4)]
    upload_copies(healthcare.url, str(store), uids)
    names = [f"{store}/dicomWeb{one.path}" for one in uids]
    publish(
        TOPIC,
        {
            names[0]: "StoreInstances",
            names[1]: "ImportDicomData",
            names[2]: "SetBlobSettings",
            f"{names[3]}9": "DeleteInstances",
        },
    )
    assert sorted(tasks("collect", subscription)) == [uids[0].path, uids[1].path]
    # The run failed: the next one collects the same, and what has arrived since.
    publish(TOPIC, {names[2]: "StoreInstances"})
    collected = tasks("collect", subscription)
    assert sorted(collected) == [one.path for one in uids[:3]]
    task = operator(
        destination=f"gs://{bucket}/on_arrival/", filter_uri=f"gs://{bucket}/f.txt", resource_paths=collected
    )
    assert TaskRun().run(task)["success"] == 3
    # This one arrives while the export runs.
    publish(TOPIC, {names[3]: "StoreInstances"})
    assert tasks("acknowledge", subscription, collected) == 3
    assert tasks("collect", subscription) == [uids[3].path]
    tasks("acknowledge", subscription, [uids[3].path])
    assert tasks("collect", subscription) == []
    assert len(storage.objects(bucket, "on_arrival/")) == 3
