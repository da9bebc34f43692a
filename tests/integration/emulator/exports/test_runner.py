"""Exports are operations that live: they move, wait, fail in part, end in errors and are cancelled."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from googleapiclient.errors import HttpError

from rig.dicom_files import sample_files, upload
from rig.servers import wait_for
from tests.support.discovery_check import execute

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests
    from googleapiclient.discovery import Resource

    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator, StorageEmulator

    Get = Callable[[str], dict[str, Any]]
    Start = Callable[[str], str]

COUNT = 5


@pytest.fixture
def uploaded(healthcare: HealthcareEmulator, dicom_store: str) -> list[Uids]:
    return upload(healthcare.url, dicom_store, sample_files()[:COUNT])


def _state(control: Control, name: str) -> dict[str, Any]:
    reports = {report["name"]: report for report in control.exports()["operations"]}
    return dict(reports[name])


def test_manual_export_advances_only_by_steps(
    manual: Control,
    storage: StorageEmulator,
    bucket: str,
    uploaded: list[Uids],
    dicom_store: str,
    export: Start,
    operation: Get,
) -> None:
    name = export(dicom_store)
    assert operation(name)["metadata"]["counter"] == {"pending": str(COUNT)}
    (stepped,) = manual.step(name, 2)["operations"]
    assert stepped == operation(name)
    assert stepped["metadata"]["counter"] == {"success": "2", "pending": str(COUNT - 2)}
    assert len(storage.objects(bucket)) == 2
    assert not stepped.get("done")
    (stepped,) = manual.step(name)["operations"]
    assert stepped["done"]
    assert stepped["metadata"]["counter"] == {"success": str(COUNT)}
    assert len(storage.objects(bucket)) == COUNT
    assert manual.step()["operations"] == []
    with pytest.raises(RuntimeError, match="has ended"):
        manual.step(name, 1)
    with pytest.raises(RuntimeError, match="does not exist"):
        manual.step(f"{name}0", 1)


def test_immediate_export_is_done_when_submitted(
    control: Control, uploaded: list[Uids], dicom_store: str, export: Start, operation: Get
) -> None:
    control.settings(advance="immediate")
    assert operation(export(dicom_store))["metadata"]["counter"] == {"success": str(COUNT)}


def test_delayed_export_continues_when_its_settings_change(
    control: Control, uploaded: list[Uids], dicom_store: str, export: Start, operation: Get, finished: Get
) -> None:
    control.settings(start_delay_seconds=3600)
    name = export(dicom_store)
    assert operation(name)["metadata"]["counter"] == {"pending": str(COUNT)}
    # Settings hold for what is submitted after them, the advance for all.
    control.settings(advance="manual")
    control.step(name, 1)
    control.settings(advance="time", seconds_per_instance=0)
    assert finished(name)["metadata"]["counter"] == {"success": str(COUNT)}


def test_running_export_switched_to_manual_is_stepped(
    control: Control, uploaded: list[Uids], dicom_store: str, export: Start, operation: Get
) -> None:
    # The first instance is written at once, the second one not before the test is long over.
    control.settings(seconds_per_instance=3600)
    name = export(dicom_store)
    wait_for(
        "the first instance is written",
        lambda: operation(name)["metadata"]["counter"].get("success") == "1",
        timeout=60,
        pause=0.05,
    )
    control.settings(advance="manual")
    control.step(name, 2)
    assert operation(name)["metadata"]["counter"] == {"success": "3", "pending": str(COUNT - 3)}
    control.step(name)


def test_cancelled_export_keeps_its_counters_and_objects(
    google: Resource,
    manual: Control,
    storage: StorageEmulator,
    bucket: str,
    uploaded: list[Uids],
    dicom_store: str,
    export: Start,
    finished: Get,
) -> None:
    name = export(dicom_store)
    manual.step(name, 2)
    assert execute(google.operations().cancel(name=name, body={})) == {}
    cancelled = finished(name)
    assert cancelled["error"]["code"] == 1
    assert cancelled["metadata"]["cancelRequested"] is True
    assert cancelled["metadata"]["counter"] == {"success": "2", "pending": str(COUNT - 2)}
    assert len(storage.objects(bucket)) == 2
    assert execute(google.operations().cancel(name=name, body={})) == {}
    assert finished(name) == cancelled


def test_export_is_cancelled_between_two_instances(
    google: Resource, control: Control, uploaded: list[Uids], dicom_store: str, export: Start, finished: Get
) -> None:
    control.settings(seconds_per_instance=3600)
    name = export(dicom_store)
    execute(google.operations().cancel(name=name, body={}))
    assert finished(name)["error"]["code"] == 1


def test_failing_instances_do_not_fail_the_export(
    control: Control, uploaded: list[Uids], dicom_store: str, export: Start, finished: Get
) -> None:
    doomed = sorted(uids.instance for uids in uploaded[:2])
    control.settings(failing_instances=doomed)
    name = export(dicom_store)
    done = finished(name)
    assert "response" in done
    assert done["metadata"]["counter"] == {"success": str(COUNT - 2), "failure": "2"}
    assert sorted(entry["instance"] for entry in _state(control, name)["log"]) == doomed


def test_operation_error_setting_fails_the_export(
    control: Control, uploaded: list[Uids], dicom_store: str, export: Start, finished: Get
) -> None:
    control.settings(operation_error={"code": 7, "message": "no permission"})
    assert finished(export(dicom_store))["error"] == {"code": 7, "message": "no permission"}
    control.settings(operation_error=None)
    assert "response" in finished(export(dicom_store))


def test_export_to_a_missing_bucket_ends_with_an_error(
    google: Resource, uploaded: list[Uids], dicom_store: str, finished: Get
) -> None:
    body = {"gcsDestination": {"uriPrefix": "gs://no-such-bucket/x"}}
    name = execute(google.dicomStores().export(name=dicom_store, body=body))["name"]
    done = finished(name)
    assert done["error"]["message"]
    assert "response" not in done


def test_export_of_an_empty_store_has_no_counters(dicom_store: str, export: Start, finished: Get) -> None:
    assert "counter" not in finished(export(dicom_store))["metadata"]


def test_filtered_export_writes_only_matching_instances(
    http: requests.Session,
    storage: StorageEmulator,
    google: Resource,
    control: Control,
    bucket: str,
    uploaded: list[Uids],
    dicom_store: str,
    finished: Get,
) -> None:
    first, last = uploaded[0], uploaded[-1]
    lines = [
        f"/studies/{first.study}/series/{first.series}/instances/{first.instance}",
        f"/studies/{last.study}",
        "/studies/1.2.3",
    ]
    http.post(
        f"{storage.url}/upload/storage/v1/b/{bucket}/o",
        params={"uploadType": "media", "name": "filter.txt"},
        data="\n".join(lines),
        headers={"Content-Type": "text/plain"},
    ).raise_for_status()
    body = {
        "gcsDestination": {"uriPrefix": f"gs://{bucket}/filtered"},
        "filterConfig": {"resourcePathsGcsUri": f"gs://{bucket}/filter.txt"},
    }
    name = execute(google.dicomStores().export(name=dicom_store, body=body))["name"]
    wanted = {uids for uids in uploaded if uids == first or uids.study == last.study}
    assert finished(name)["metadata"]["counter"] == {"success": str(len(wanted)), "failure": "1"}
    assert [entry["instance"] for entry in _state(control, name)["log"]] == ["/studies/1.2.3"]
    exported = storage.objects(bucket, "filtered/").keys()
    assert exported == {f"filtered/{'/'.join(uids)}.dcm" for uids in wanted}


def test_exports_above_the_maximum_are_queued(
    google: Resource, manual: Control, uploaded: list[Uids], dicom_store: str, export: Start, finished: Get
) -> None:
    manual.settings(max_running_exports=2)
    names = [export(dicom_store) for _ in range(5)]
    assert [_state(manual, name)["state"] for name in names] == ["RUNNING"] * 2 + ["QUEUED"] * 3
    assert len(manual.step(None, 1)["operations"]) == 2
    with pytest.raises(RuntimeError, match="waits for others"):
        manual.step(names[-1], 1)
    execute(google.operations().cancel(name=names[3], body={}))
    assert finished(names[3])["error"]["code"] == 1
    manual.step(names[0])
    assert [_state(manual, name)["state"] for name in names] == [
        "DONE",
        "RUNNING",
        "RUNNING",
        "DONE",
        "QUEUED",
    ]
    assert len(manual.step()["operations"]) == 3
    assert all("response" in finished(name) for name in names if name != names[3])


def test_export_above_the_quota_is_refused(
    google: Resource, manual: Control, uploaded: list[Uids], dicom_store: str, export: Start
) -> None:
    manual.settings(export_quota=2)
    first = export(dicom_store)
    export(dicom_store)
    accepted = manual.exports()["accepted"]
    with pytest.raises(HttpError) as refusal:
        export(dicom_store)
    assert refusal.value.status_code == 429
    assert manual.exports()["accepted"] == accepted
    manual.step(first)
    export(dicom_store)
    manual.step()


def test_many_exports_can_be_polled_at_the_same_time(
    healthcare: HealthcareEmulator,
    http: requests.Session,
    control: Control,
    uploaded: list[Uids],
    dicom_store: str,
    export: Start,
    finished: Get,
) -> None:
    control.settings(max_running_exports=10)
    names = [export(dicom_store) for _ in range(20)]
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda name: http.get(f"{healthcare.url}/v1/{name}"), names * 20))
    assert {answer.status_code for answer in answers} == {200}
    for name in names:
        assert finished(name)["metadata"]["counter"] == {"success": str(COUNT)}
    assert control.exports()["highest_running"] <= 10


def test_highest_numbers_of_exports_are_reported_and_reset(
    healthcare: HealthcareEmulator,
    http: requests.Session,
    manual: Control,
    uploaded: list[Uids],
    dicom_store: str,
    export: Start,
) -> None:
    manual.settings(max_running_exports=2)
    http.delete(f"{healthcare.url}/_emulator/exports").raise_for_status()
    for _ in range(3):
        export(dicom_store)
    highest = manual.exports()
    assert (highest["highest_running"], highest["highest_unfinished"]) == (2, 3)
    manual.step()
    http.delete(f"{healthcare.url}/_emulator/exports").raise_for_status()
    highest = manual.exports()
    assert (highest["highest_running"], highest["highest_unfinished"]) == (0, 0)


def test_instances_deleted_during_the_export_are_failures(
    healthcare: HealthcareEmulator,
    http: requests.Session,
    manual: Control,
    uploaded: list[Uids],
    dicom_store: str,
    export: Start,
) -> None:
    name = export(dicom_store)
    manual.step(name, 1)
    for study in {uids.study for uids in uploaded}:
        http.delete(f"{healthcare.url}/v1/{dicom_store}/dicomWeb/studies/{study}").raise_for_status()
    (done,) = manual.step(name)["operations"]
    assert done["metadata"]["counter"] == {"success": "1", "failure": str(COUNT - 1)}


def test_control_endpoint_reports_the_request_of_an_export(
    control: Control, bucket: str, dicom_store: str, export: Start, finished: Get
) -> None:
    before = control.exports()["accepted"]
    name = export(dicom_store)
    finished(name)
    report = _state(control, name)
    assert control.exports()["accepted"] == before + 1
    assert report["dicomStore"] == dicom_store
    assert report["request"] == {"gcsDestination": {"uriPrefix": f"gs://{bucket}/out"}}
    assert wait_for("it is done", lambda: _state(control, name)["state"] == "DONE", timeout=10)
