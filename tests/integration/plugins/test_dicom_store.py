"""The progress page in a browser, with the answers of Airflow's REST API played by the test."""

from __future__ import annotations

import json
import os
import re
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from airflow_provider_dicom.plugins import dicom_store as module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page, Route

if shutil.which("chromium") is None and not os.environ.get("CI"):
    pytest.skip("there is no Chromium", allow_module_level=True)

from playwright.sync_api import expect, sync_playwright

ADDRESS = "http://airflow.test/dicom-export/?dag_id=dag&run_id=run&task_id=task&map_index=-1"
OPERATION = "projects/p/locations/l/datasets/d/operations/7"
RECORD: dict[str, Any] = {
    "operation_name": OPERATION,
    "state": "SUCCEEDED",
    "success": 3,
    "failure": 0,
    "pending": 0,
    "create_time": "2026-01-01T00:00:00Z",
    "end_time": "2026-01-01T00:01:00Z",
    "observed_at": "2026-01-01T00:01:00Z",
    "message": None,
}
#: Values of an XCom named "progress" that other tasks may write.
FOREIGN = [
    0.5,
    "50 %",
    '"50 %"',
    "{",
    [1, 2],
    True,
    {"done": 5},
    {**RECORD, "success": "3"},
    {**RECORD, "operation_name": 7},
    {**RECORD, "operation_name": None},
    {**RECORD, "state": "constructor"},
    {**RECORD, "state": None},
]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of a browser."""
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        ) as browser,
    ):
        yield browser.new_page()


def play_airflow(page: Page, progress: object, task_state: str = "success") -> None:
    """Answer the page's requests: its files, a task (by default one that has ended), and the task's XCom."""

    def answer(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path.startswith("/dicom-export/"):
            file = module._PAGE / (path.removeprefix("/dicom-export/") or "index.html")
            route.fulfill(path=file) if file.is_file() else route.fulfill(status=404)
        elif path.endswith("/xcomEntries/progress"):
            route.fulfill(json={"value": progress})
        elif path.endswith("/links"):
            route.fulfill(json={"extra_links": {}})
        else:
            route.fulfill(json={"state": task_state, "start_date": "2026-01-01T00:00:00Z"})

    page.unroute_all()
    page.route("**/*", answer)
    page.goto(ADDRESS)


@pytest.mark.parametrize("as_text", [False, True], ids=["as JSON", "as text"])
def test_progress_record_is_shown(as_text: bool, page: Page) -> None:
    play_airflow(page, json.dumps(RECORD) if as_text else RECORD)
    expect(page.locator("#badge")).to_have_text("Succeeded")
    expect(page.locator("#headline")).to_have_text("100 % of 3 instances")
    expect(page.locator("#operation")).to_have_text(OPERATION)


@pytest.mark.parametrize("value", FOREIGN, ids=repr)
def test_xcom_of_the_same_name_that_is_no_progress_record_counts_as_none(value: object, page: Page) -> None:
    play_airflow(page, value)
    expect(page.locator("#notice")).to_have_text(
        "Nothing to show: this task has no progress record of an export."
    )
    expect(page.locator("#export")).to_be_hidden()


def running(age: float, success: int = 200, pending: int = 800) -> dict[str, Any]:
    """Return the record of an export that was counted ``age`` seconds ago, 1,000 s after its start."""
    observed = datetime.now(UTC) - timedelta(seconds=age)
    return RECORD | {
        "state": "RUNNING",
        "success": success,
        "pending": pending,
        "create_time": (observed - timedelta(seconds=1000)).isoformat(),
        "end_time": None,
        "observed_at": observed.isoformat(),
    }


def test_running_export_goes_on_by_estimate_between_two_records(page: Page) -> None:
    play_airflow(page, running(age=500), task_state="deferred")
    expect(page.locator("#headline")).to_have_text("20 % of 1,000 instances")
    expect(page.locator("#estimate")).to_have_text("≈ 30 % by now (estimate)")
    expect(page.locator("#freshness")).to_have_text(re.compile(r"^Counted 8 min \d+ s ago, at "))
    width = page.locator("#bar-estimate").evaluate("bar => bar.style.width")
    assert float(width.removesuffix("%")) == pytest.approx(10, abs=1)


@pytest.mark.parametrize(
    ("record", "task_state"),
    [
        (running(age=3), "deferred"),
        (running(age=601), "deferred"),
        (running(age=500, success=0), "deferred"),
        (running(age=500, success=0, pending=0), "deferred"),
        (running(age=500), "failed"),
        (RECORD, "success"),
    ],
    ids=["fresh", "old", "nothing done", "nothing counted", "ended task", "ended export"],
)
def test_export_without_an_estimate_shows_none(record: dict[str, Any], task_state: str, page: Page) -> None:
    play_airflow(page, record, task_state)
    expect(page.locator("#freshness")).not_to_be_empty()
    expect(page.locator("#estimate")).to_be_hidden()
    assert page.locator("#bar-estimate").evaluate("bar => bar.style.width") == "0px"


def test_estimate_never_says_that_an_export_has_ended(page: Page) -> None:
    play_airflow(page, running(age=500, success=950, pending=50), task_state="deferred")
    expect(page.locator("#estimate")).to_have_text("≈ 99 % by now (estimate)")
