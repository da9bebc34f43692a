"""The page "DICOM exports" of an Airflow with 5,000 export tasks, and 50,000 tasks of other kinds."""

from __future__ import annotations

import os
import shutil
import statistics
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, Request

if shutil.which("chromium") is None and not os.environ.get("CI"):
    pytest.skip("Chromium is not installed", allow_module_level=True)

from playwright.sync_api import expect

from rig.web_server import AirflowWebServer
from tests.support.browser import launched_browser

EXPORTS, OTHERS, RUNNING, FAILED = 5_000, 50_000, 300, 40
#: The longest wait of the browser, in milliseconds, and the time in which requests are counted, in seconds.
BOUND_MS, COUNTED = 90_000, 60
#: A refresh sends at most ten requests, every five seconds; the first one may fall into the same time.
MOST_REQUESTS = 10 * (COUNTED // 5 + 1)
NOW = datetime.now(UTC)


def stored_task(number: int) -> dict[str, Any]:
    """Return an export task as the database is to have it: some failed, some running, most succeeded."""
    state = "failed" if number < FAILED else "deferred" if number < FAILED + RUNNING else "success"
    begun = NOW - timedelta(seconds=number)
    ended = begun + timedelta(minutes=10)
    record = {
        "operation_name": f"projects/p/locations/l/datasets/d/operations/{number}",
        "state": {"failed": "FAILED", "deferred": "RUNNING", "success": "SUCCEEDED"}[state],
        "success": 900,
        "failure": 100 if state == "failed" else 0,
        "pending": 1000 if state == "deferred" else 0,
        "create_time": begun.isoformat(),
        "end_time": None if state == "deferred" else ended.isoformat(),
        "observed_at": NOW.isoformat(),
        "message": "100 instances failed" if state == "failed" else None,
    }
    return {
        "dag_id": f"export_{number % 50}",
        "run_id": f"run_{number // 50:03}",
        "state": state,
        "start_date": begun.isoformat(),
        "end_date": record["end_time"],
        "fields": {"dicom_store_id": f"store-{number}", "destination": f"gs://bucket/{number}/"},
        "xcoms": {"progress": record},
    }


def other_task(number: int) -> dict[str, Any]:
    """Return a task that exports nothing."""
    return {
        "dag_id": f"other_{number % 20}",
        "run_id": f"run_{number // 20:04}",
        "state": "success",
        "start_date": (NOW - timedelta(seconds=number)).isoformat(),
        "end_date": NOW.isoformat(),
        "operator": "EmptyOperator",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowWebServer]:
    """Airflow's web server with all tasks in its database."""
    server = AirflowWebServer(tmp_path_factory.mktemp("exports"))
    tasks = [stored_task(number) for number in range(EXPORTS)]
    tasks += [other_task(number) for number in range(OTHERS)]
    server.run(["-m", "tests.support.stored_exports"], tasks)
    with server:
        yield server


@pytest.fixture
def page(server: AirflowWebServer) -> Iterator[Page]:
    """A page of a browser, logged in."""
    with launched_browser() as browser:
        page = _logged_in(browser, server)
        page.set_default_timeout(BOUND_MS)
        expect.set_options(timeout=BOUND_MS)
        yield page


def _logged_in(browser: Browser, server: AirflowWebServer) -> Page:
    page = browser.new_page(viewport={"width": 1360, "height": 860})
    # Every visitor is an administrator here, and the first visit sets the cookie.
    page.goto(server.url)
    expect(page.get_by_role("link", name="Dags").first).to_be_visible(timeout=BOUND_MS)
    return page


def test_page_with_5_000_exports_sends_few_requests(
    server: AirflowWebServer, page: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request) if "/api/v2/" in request.url else None)
    page.goto(f"{server.url}/dicom-export/exports.html")
    expect(page.locator("#count-")).to_have_text(f"{EXPORTS:,}")
    expect(page.locator("#count-failed")).to_have_text(f"{FAILED}")
    expect(page.locator("#count-running")).to_have_text(f"{RUNNING}")
    expect(page.locator("#rows tr")).to_have_count(50)
    expect(page.locator("#rows tr").first).to_contain_text("900 exported, 100 failed")
    asked.clear()
    page.wait_for_timeout(COUNTED * 1000)
    assert 0 < len(asked) <= MOST_REQUESTS
    times: dict[str, list[float]] = {"list": [], "XCom": []}
    for request in asked:
        if request.response() is not None:
            kind = "list" if "/taskInstances?" in request.url else "XCom"
            times[kind].append(request.timing["responseEnd"] - request.timing["requestStart"])
    with capsys.disabled():
        print(f"\n{len(asked)} requests in {COUNTED} s", end="")
        for kind, durations in times.items():
            if durations:
                print(f"; {kind}: {len(durations)}, median {statistics.median(durations):.0f} ms", end="")
        print()


def test_one_store_of_5_000_exports_is_found(server: AirflowWebServer, page: Page) -> None:
    page.goto(f"{server.url}/dicom-export/exports.html")
    page.get_by_label("DICOM store", exact=True).fill("store-4999")
    expect(page.locator("#rows .task")).to_have_text(["export_49 · export"])
    expect(page.locator("#searched")).to_have_text(f"Searched all {EXPORTS:,} exports; found 1.")
