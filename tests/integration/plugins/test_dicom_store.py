"""The progress page in a browser, with the answers of Airflow's REST API played by the test."""

from __future__ import annotations

import json
import os
import shutil
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


def play_airflow(page: Page, progress: object) -> None:
    """Answer the page's requests: its files, a task that has ended, and the task's XCom."""

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
            route.fulfill(json={"state": "success", "start_date": "2026-01-01T00:00:00Z"})

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


@pytest.mark.parametrize(
    ("expected", "headline"),
    [
        (12_345, "About 12,345 instances, none counted yet"),
        ("12", "No instances counted yet"),
        (None, "No instances counted yet"),
    ],
)
def test_total_that_was_known_beforehand_is_shown_until_there_are_counts(
    expected: object, headline: str, page: Page
) -> None:
    record = {**RECORD, "state": "RUNNING", "success": 0, "end_time": None, "expected": expected}
    play_airflow(page, record)
    expect(page.locator("#headline")).to_have_text(headline)
    play_airflow(page, {**record, "success": 1, "pending": 3})
    expect(page.locator("#headline")).to_have_text("25 % of 4 instances")
