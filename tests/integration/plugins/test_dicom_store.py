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
from rig.servers import ROOT
from tests.support.browser import launched_browser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page, Route

if shutil.which("chromium") is None and not os.environ.get("CI"):
    pytest.skip("there is no Chromium", allow_module_level=True)

from playwright.sync_api import expect

SCREENSHOTS = ROOT / "artifacts" / "screenshots"
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
    with launched_browser() as browser:
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


MARKUP = "<img src=x onerror=alert(1)>"
CAUSES: list[dict[str, Any]] = [
    {
        "code": 3,
        "message": "transfer syntax not supported",
        "count": 1234,
        "resource_paths": [
            f"/studies/1.2.826.0.1/series/1.2.826.0.1.1/instances/1.2.826.0.1.1.{n}" for n in (1, 2, 3)
        ],
    },
    {"code": 5, "message": f"not found {MARKUP}", "count": 2, "resource_paths": []},
]
PARTIAL = RECORD | {"state": "PARTIAL", "success": 10_000, "failure": 1240}
ENDED = {
    "partial": ("Succeeded in part", PARTIAL),
    "failed": ("Failed", PARTIAL | {"state": "FAILED", "message": "1240 instances could not be exported."}),
    "cancelled": ("Cancelled", PARTIAL | {"state": "CANCELLED", "pending": 500, "message": "cancelled"}),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("end", ENDED)
def test_causes_of_failed_instances_are_listed(end: str, scheme: Any, page: Page) -> None:
    badge, record = ENDED[end]
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 1000, "height": 640})
    known = {"known": 1236, "causes": CAUSES, "more_causes": 1}
    play_airflow(page, record | known, "success" if end == "partial" else "failed")
    expect(page.locator("#badge")).to_have_text(badge)
    expect(page.locator("#causes-title")).to_have_text(
        "Causes: Cloud Logging lists 1,236 of the 1,240 failed instances; further causes: 1"
    )
    items = page.locator("#causes li")
    expect(items).to_have_count(2)
    expect(items.nth(0).locator(".count")).to_have_text("1,234 \u00d7")
    expect(items.nth(0).locator(".cause")).to_have_text("transfer syntax not supported")
    expect(items.nth(0).locator(".paths")).to_have_text([*CAUSES[0]["resource_paths"], "and 1,231 more"])
    expect(items.nth(1)).to_have_text(f"2 \u00d7not found {MARKUP}")
    expect(page.locator("img")).to_have_count(0)
    is_dark = page.evaluate("document.documentElement.classList.contains('dark')")
    assert is_dark is (scheme == "dark")
    page.screenshot(path=SCREENSHOTS / f"causes-{end}-{scheme}.png")


def test_record_without_causes_shows_none(page: Page) -> None:
    play_airflow(page, PARTIAL)
    expect(page.locator("#badge")).to_have_text("Succeeded in part")
    expect(page.locator("#causes")).to_be_hidden()


@pytest.mark.parametrize(
    "causes",
    [None, "text", 7, {"0": CAUSES[0]}, [None, "text", {"count": "1", "message": "x"}, {"count": 1}]],
    ids=repr,
)
def test_causes_of_another_shape_are_left_out(causes: object, page: Page) -> None:
    play_airflow(page, PARTIAL | {"known": 0, "causes": causes})
    expect(page.locator("#causes-title")).to_contain_text("lists 0 of the 1,240")
    expect(page.locator("#causes li")).to_have_count(0)


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
        # Built when the test runs: all tests are collected minutes before.
        (lambda: running(age=3), "deferred"),
        (lambda: running(age=601), "deferred"),
        (lambda: running(age=500, success=0), "deferred"),
        (lambda: running(age=500, success=0, pending=0), "deferred"),
        (lambda: running(age=500), "failed"),
        (lambda: RECORD, "success"),
    ],
    ids=["fresh", "old", "nothing done", "nothing counted", "ended task", "ended export"],
)
def test_export_without_an_estimate_shows_none(
    record: Callable[[], dict[str, Any]], task_state: str, page: Page
) -> None:
    play_airflow(page, record(), task_state)
    expect(page.locator("#freshness")).not_to_be_empty()
    expect(page.locator("#estimate")).to_be_hidden()
    assert page.locator("#bar-estimate").evaluate("bar => bar.style.width") == "0px"


def test_estimate_never_says_that_an_export_has_ended(page: Page) -> None:
    play_airflow(page, running(age=500, success=950, pending=50), task_state="deferred")
    expect(page.locator("#estimate")).to_have_text("≈ 99 % by now (estimate)")
