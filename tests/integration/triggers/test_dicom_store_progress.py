"""Progress records of a trigger's task."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.longrunning import record_writer
from tests.support.healthcare_requests import request_count
from tests.support.progress_records import write_records_at_once
from tests.support.trigger_runs import XCom, run_trigger
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from rig.control import Control
    from tests.integration.triggers.conftest import ExportSubmitter, TaskTriggerFactory

pytestmark = [
    pytest.mark.usefixtures("quick"),
    pytest.mark.airflow("3.0", "triggers store progress for the page beside the log"),
]


async def test_progress_is_stored_as_an_xcom_of_the_task(
    task_trigger: TaskTriggerFactory,
    submit: ExportSubmitter,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored: list[dict[str, Any]] = []
    monkeypatch.setattr(XCom, "set", lambda **entry: stored.append(entry))
    write_records_at_once(monkeypatch)
    control.settings(advance="manual")
    name = submit()
    running = asyncio.create_task(run_trigger(task_trigger(name, state="deferred")))
    await wait_until(lambda: stored)
    await asyncio.to_thread(control.step, name, 2)
    await wait_until(lambda: stored[-1]["value"]["success"] == 2)
    await asyncio.to_thread(control.step)
    assert (await running)["status"] == "success"
    assert all(json.loads(json.dumps(entry["value"])) == entry["value"] for entry in stored)
    assert {entry["value"]["state"] for entry in stored} == {"RUNNING"}
    assert {(e["key"], e["dag_id"], e["run_id"], e["task_id"], e["map_index"]) for e in stored} == {
        ("progress", "dag", "run", "export", 7)
    }


async def test_polls_and_events_do_not_wait_for_progress_that_cannot_be_stored(
    task_trigger: TaskTriggerFactory,
    submit: ExportSubmitter,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, gate = threading.Event(), threading.Event()

    def hang_and_fail(**_: object) -> None:
        begun.set()
        gate.wait(60)
        raise RuntimeError("the database is away")

    monkeypatch.setattr(XCom, "set", hang_and_fail)
    monkeypatch.setattr(record_writer, "LAST_RECORD", 0.1)
    control.settings(advance="manual")
    names = [submit() for _ in range(3)]
    try:
        running = [asyncio.create_task(run_trigger(task_trigger(name, state="deferred"))) for name in names]
        await wait_until(begun.is_set)
        polls = request_count(control, "operations.get", "operations.list")
        await wait_until(lambda: request_count(control, "operations.get", "operations.list") > polls + 10)
        await asyncio.to_thread(control.step)
        events = await asyncio.gather(*running)
        assert {event["status"] for event in events} == {"success"}
        assert not gate.is_set()
    finally:
        gate.set()
