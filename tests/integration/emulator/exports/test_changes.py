"""Changes of a DICOM store reach BigQuery and Pub/Sub, as its configuration says."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports import bigquery_destination
from airflow_provider_dicom.emulator.exports.changes import check_config
from airflow_provider_dicom.emulator.models import dicom_files
from airflow_provider_dicom.emulator.models.archive import IMPORT_DICOM_DATA, STORE_INSTANCES
from airflow_provider_dicom.emulator.names import WHOLE_STORE, ResourcePath
from airflow_provider_dicom.emulator.server.state import Limits, ServerState
from rig.dicom_files import sample_files, upload
from rig.ports import LOOPBACK, free_port
from rig.servers import wait_for
from tests.support.discovery_check import execute
from tests.support.pubsub_stand_in import Published, PubsubStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from googleapiclient.discovery import Resource

    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.dicom_files import DicomFile
    from rig.control import Control
    from rig.servers import BigQueryEmulator, HealthcareEmulator

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

FILES = Path(pydicom.data.__file__).parent / "test_files"
STORE = "projects/p/locations/l/datasets/d/dicomStores/s"
TOPIC = "projects/p/topics/arrivals"
PROJECT = "test-project"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ServerState]:
    """A server's state, without the server."""
    state = ServerState.open(tmp_path / "data", Limits())
    yield state
    asyncio.run(state.close())


@pytest.fixture
def pubsub(monkeypatch: pytest.MonkeyPatch) -> Iterator[PubsubStandIn]:
    with PubsubStandIn(TOPIC) as server:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.host)
        yield server


def create(state: ServerState, config: JsonObject) -> None:
    check_config(config)
    state.archive.create_dataset(STORE.rpartition("/dicomStores/")[0], {})
    state.archive.create_store(STORE, config)


def add(state: ServerState, source: Path, action: str = STORE_INSTANCES) -> DicomFile:
    copy = state.archive.incoming / source.name
    shutil.copyfile(source, copy)
    file = dicom_files.read(copy)
    state.archive.add(STORE, copy, file, action)
    return file


def delivered(state: ServerState) -> int:
    wait_for("all is delivered", lambda: not state.changes.report()["pending"], timeout=60, pause=0.02)
    return state.changes.report()["delivered"]


def test_arrivals_imports_and_deletions_are_published(state: ServerState, pubsub: PubsubStandIn) -> None:
    create(state, {"notificationConfigs": [{"pubsubTopic": TOPIC}]})
    stored = add(state, FILES / "CT_small.dcm")
    # Nothing changes when a file is stored again.
    add(state, FILES / "CT_small.dcm")
    imported = add(state, FILES / "MR_small.dcm", IMPORT_DICOM_DATA)
    state.archive.delete_instances(STORE, ResourcePath(stored.study_uid))
    assert delivered(state) == 3
    assert [message.attributes["action"] for message in pubsub.published] == [
        "StoreInstances",
        "ImportDicomData",
        "DeleteInstances",
    ]
    first, second, _ = pubsub.published
    path = f"studies/{stored.study_uid}/series/{stored.series_uid}/instances/{stored.instance_uid}"
    assert first.data.decode() == f"{STORE}/dicomWeb/{path}"
    time = first.attributes.pop("lastUpdatedTime")
    version = first.attributes.pop("versionId")
    assert time.endswith("Z")
    assert version.isdecimal()
    assert first.attributes == {
        "action": "StoreInstances",
        "storeName": STORE,
        "studyInstanceUID": stored.study_uid,
        "seriesInstanceUID": stored.series_uid,
        "sopInstanceUID": stored.instance_uid,
        "modality": "CT",
        "storageClass": "STANDARD",
    }
    assert second.attributes["sopInstanceUID"] == imported.instance_uid


@pytest.mark.parametrize("bulk", [False, True])
def test_old_notification_config_covers_imports_only_if_it_says_so(
    state: ServerState, pubsub: PubsubStandIn, bulk: bool
) -> None:
    create(state, {"notificationConfig": {"pubsubTopic": TOPIC, "sendForBulkImport": bulk}})
    stored = add(state, FILES / "CT_small.dcm")
    add(state, FILES / "MR_small.dcm", IMPORT_DICOM_DATA)
    assert delivered(state) == 1 + bulk
    path = f"studies/{stored.study_uid}/series/{stored.series_uid}/instances/{stored.instance_uid}"
    arrival = Published(TOPIC, f"{STORE}/dicomWeb/{path}".encode(), {"action": "StoreInstances"})
    assert pubsub.published[0] == arrival


def test_message_that_cannot_be_published_does_not_fail_the_upload(
    state: ServerState, pubsub: PubsubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(state, {"notificationConfigs": [{"pubsubTopic": "projects/p/topics/other"}]})
    file = add(state, FILES / "CT_small.dcm")
    assert delivered(state) == 0
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST")
    add(state, FILES / "MR_small.dcm")
    assert delivered(state) == 0
    unknown, unset = state.changes.report()["failed"]
    assert unknown["destination"] == "projects/p/topics/other"
    assert unknown["instance"] == file.instance_uid
    assert "Topic not found" in unknown["message"]
    assert "start it with PUBSUB_EMULATOR_HOST set" in unset["message"]
    assert state.archive.metrics(STORE)["instances"] == 2


def test_rows_are_streamed_for_arrivals_and_deletions(
    google: Resource,
    control: Control,
    healthcare: HealthcareEmulator,
    bigquery: BigQueryEmulator,
    dicom_store: str,
) -> None:
    bigquery.create_dataset(PROJECT, "streams")
    (before,) = upload(healthcare.url, dicom_store, sample_files()[:1])
    flat, as_json = f"bq://{PROJECT}.streams.flat", f"bq://{PROJECT}.streams.json"
    configs = [
        {"bigqueryDestination": {"tableUri": flat, "schemaFlattened": {}, "includeSourceStore": True}},
        {"bigqueryDestination": {"tableUri": as_json, "schemaJson": {}}},
    ]
    store = google.dicomStores()
    patched = execute(
        store.patch(name=dicom_store, updateMask="streamConfigs", body={"streamConfigs": configs})
    )
    assert patched["streamConfigs"] == configs
    first, second = upload(healthcare.url, dicom_store, sample_files()[1:3])
    study = google.dicomStores().studies()
    execute(study.delete(parent=dicom_store, dicomWebPath=f"studies/{first.study}"))

    def rows(table: str, *columns: str) -> list[list[str]]:
        wait_for("all is delivered", lambda: not control.deliveries()["pending"], timeout=60, pause=0.05)
        chosen = ", ".join(("SOPInstanceUID", "Type", *columns))
        return bigquery.query(PROJECT, f"SELECT {chosen} FROM streams.{table}")

    deleted = {first.instance, second.instance} if first.study == second.study else {first.instance}
    expected = {(uid, "DELETE") for uid in deleted}
    for table in ("flat", "json"):
        found = {(row[0], row[1]) for row in rows(table)}
        arrivals = {uid for uid, kind in found if kind != "DELETE"}
        # What was stored before the stream was configured is not streamed, and no row is deleted.
        assert arrivals == {first.instance, second.instance}
        assert expected == {row for row in found if row[1] == "DELETE"}
        assert before.instance not in {uid for uid, _ in found}
    assert {row[2] for row in rows("flat", "SourceDicomStore")} == {dicom_store}
    assert {flat, as_json}.isdisjoint(failure["destination"] for failure in control.deliveries()["failed"])

    # A stream that is removed gets no more rows.
    store.patch(name=dicom_store, updateMask="streamConfigs", body={"streamConfigs": []}).execute()
    before_it = control.deliveries()
    upload(healthcare.url, dicom_store, sample_files()[3:4])
    assert control.deliveries() == before_it


def test_row_above_the_limit_is_not_streamed(
    state: ServerState, bigquery: BigQueryEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery.url)
    bigquery.create_dataset(PROJECT, "large_rows")
    table = f"bq://{PROJECT}.large_rows.t"
    create(state, {"streamConfigs": [{"bigqueryDestination": {"tableUri": table}}]})
    small = add(state, FILES / "CT_small.dcm")
    ds = dcmread(FILES / "MR_small.dcm")
    item = Dataset()
    item.TextValue = "x" * 10_000
    ds.ContentSequence = Sequence([item] * 101)
    ds.save_as(tmp_path / "large.dcm")
    large = add(state, tmp_path / "large.dcm")
    assert delivered(state) == 1
    (failure,) = state.changes.report()["failed"]
    assert (failure["instance"], failure["destination"]) == (large.instance_uid, table)
    assert "larger than 1000000 bytes" in failure["message"]
    rows = bigquery.query(PROJECT, "SELECT SOPInstanceUID FROM large_rows.t")
    assert rows == [[small.instance_uid]]


def test_unreachable_table_does_not_fail_the_upload(
    state: ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", f"http://{LOOPBACK}:{free_port()}")
    brief = bigquery_destination.RETRY.with_timeout(1.0)
    monkeypatch.setattr(bigquery_destination, "RETRY", brief)
    create(state, {"streamConfigs": [{"bigqueryDestination": {"tableUri": "bq://p.d.t"}}]})
    add(state, FILES / "CT_small.dcm")
    assert delivered(state) == 0
    (failure,) = state.changes.report()["failed"]
    assert "BigQuery cannot be reached" in failure["message"]
    assert state.archive.delete_instances(STORE, WHOLE_STORE) == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"notificationConfig": {"pubsubTopic": "arrivals"}}, "Invalid Pub/Sub topic"),
        ({"notificationConfigs": [{"pubsubTopic": "projects/p/topics/"}]}, "Invalid Pub/Sub topic"),
        ({"streamConfigs": [{}]}, "Invalid BigQuery URI"),
        ({"streamConfigs": [{"bigqueryDestination": {"tableUri": "p.d.t"}}]}, "Invalid BigQuery URI"),
        ({"streamConfigs": [{"bigqueryDestination": {"tableUri": "bq://p.d.t"}}] * 2}, "unique destination"),
    ],
)
def test_invalid_configuration_is_refused(config: JsonObject, message: str) -> None:
    with pytest.raises(ApiError, match=message):
        check_config(config)
