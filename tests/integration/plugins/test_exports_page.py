"""The page "DICOM exports" in a browser, with the answers of Airflow's REST API played by the test."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

if shutil.which("chromium") is None and not os.environ.get("CI"):
    pytest.skip("there is no Chromium", allow_module_level=True)

from playwright.sync_api import expect

from tests.support.played_airflow import PlayedAirflow, ago, export_task, open_exports, progress

#: A refresh sends no more requests than this, whatever there is in Airflow.
MOST_REQUESTS = 10
MARKUP = "<img src=x onerror=alert(1)>"


def row_of(page: Page, number: int) -> Locator:
    return page.get_by_role("row").filter(has_text=f"dag-{number} ·")


def names(page: Page) -> list[str]:
    """Return the tasks in the order of the rows."""
    return page.locator("#rows .task").all_inner_texts()


def lists(asked: list[str]) -> list[str]:
    return [url for url in asked if "/taskInstances?" in url]


def test_what_needs_attention_comes_first(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [
        export_task(1, "success"),
        export_task(2, None),
        export_task(3, "deferred", start_date=ago(minutes=5)),
        export_task(4, "running", start_date=ago(hours=5)),
        export_task(5, "failed", end_date=ago(hours=2)),
        export_task(6, "up_for_retry", end_date=ago(hours=1)),
        export_task(7, "removed"),
    ]
    open_exports(page, airflow)
    expect(page.locator("#rows .task")).to_have_count(6)
    assert names(page) == [f"dag-{number} · export" for number in (6, 5, 4, 3, 2, 1)]
    badges = ["Up for retry", "Failed", "Running", "Running", "Not started", "Succeeded"]
    assert page.locator("#rows .badge").all_inner_texts() == badges
    for name in ("6 All", "2 Failed or retrying", "2 Running", "1 Waiting", "1 Done"):
        expect(page.get_by_role("radio", name=name)).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="failed")).to_have_text(
        "2 failed or retrying, 2 running"
    )


def test_row_of_a_running_export_has_counts_rate_remaining_time_and_age(
    page: Page, airflow: PlayedAirflow
) -> None:
    airflow.tasks = [export_task(1, "deferred")]
    airflow.xcoms["dag-1", "progress"] = progress("RUNNING", 3588, failure=12, pending=10800)
    advance = open_exports(page, airflow)
    row = row_of(page, 1)
    expect(row).to_contain_text("25 % of 14,400: 3,588 exported, 12 failed")
    expect(row.get_by_role("progressbar", name="Progress of store-1")).to_have_attribute(
        "aria-valuenow", "25"
    )
    expect(row).to_contain_text("store-1")
    expect(row).to_contain_text("gs://bucket/1/")
    expect(row.locator(".rate")).to_have_text("1 / s")
    expect(row.locator(".time")).to_have_text(re.compile("~ [23] h .* left"))
    expect(row.locator(".age")).to_have_text("counted 12 s ago")
    expect(page.locator("#sum")).to_have_text(
        "One running export counted on this page: 25 % of 14,400 instances, 12 failed, 1 / s."
    )
    advance(3)
    expect(row.locator(".age")).to_have_text("counted 15 s ago")
    airflow.xcoms["dag-1", "progress"] = progress("RUNNING", 7200, pending=7200, observed_at=ago(seconds=-5))
    advance(3)
    expect(row).to_contain_text("50 % of 14,400")


def test_counts_go_on_by_estimate_between_two_records(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [export_task(1, "deferred")]
    times: dict[str, Any] = {"create_time": ago(seconds=1500), "observed_at": ago(seconds=500)}
    airflow.xcoms["dag-1", "progress"] = progress("RUNNING", 200, pending=800, **times)
    open_exports(page, airflow)
    expect(row_of(page, 1)).to_contain_text("20 % of 1,000 (≈ 30 % by now): 200 exported, 0 failed")


def test_failures_have_their_causes(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [export_task(number, "failed", end_date=ago(minutes=number)) for number in (1, 2, 3)]
    airflow.tasks += [export_task(4, "success"), export_task(5, "failed", end_date=ago(minutes=5))]
    airflow.xcoms["dag-1", "progress"] = progress("FAILED", 20, failure=12, message="12 instances failed")
    airflow.xcoms["dag-1", "failures"] = [
        {"resource_path": f"/studies/1.{number}", "code": 3, "message": f"{cause}: /studies/1.{number}"}
        for number in range(12)
        for cause in ["transfer syntax not supported" if number < 9 else "too large"]
    ]
    airflow.xcoms["dag-2", "progress"] = progress("FAILED", 0, failure=9, message="The bucket is gone.")
    airflow.logs["dag-3"] = [
        {"event": "Task failed with exception", "error_detail": [{"exc_type": "E", "exc_value": "no role"}]},
        {"event": "bye"},
    ]
    airflow.xcoms["dag-4", "progress"] = progress("PARTIAL", 9, failure=1)
    airflow.xcoms["dag-4", "failures"] = [{"resource_path": "/studies/1", "code": 3, "message": MARKUP}]
    causes = [{"count": 7 - number, "message": f"cause {number}"} for number in range(5)]
    airflow.xcoms["dag-5", "progress"] = progress("FAILED", 0, failure=25, causes=[*causes, None, {}])
    advance = open_exports(page, airflow)
    expect(row_of(page, 2).get_by_role("listitem")).to_have_text(["The bucket is gone."])
    for _ in range(3):
        advance(5)
    expect(row_of(page, 1).get_by_role("listitem")).to_have_text(
        ["9 \u00d7 transfer syntax not supported", "3 \u00d7 too large"]
    )
    expect(row_of(page, 3).get_by_role("listitem")).to_have_text(["E: no role"])
    expect(row_of(page, 5).get_by_role("listitem")).to_have_text(
        ["7 \u00d7 cause 0", "6 \u00d7 cause 1", "5 \u00d7 cause 2", "and 2 more causes"]
    )
    expect(row_of(page, 4).locator(".badge")).to_have_text("Succeeded in part")
    expect(row_of(page, 4).get_by_role("listitem")).to_have_text([f"1 \u00d7 {MARKUP}"])
    expect(page.locator("img")).to_have_count(0)


@pytest.mark.parametrize("count", [1, 5000])
def test_refresh_sends_few_requests_however_many_exports_there_are(
    count: int, page: Page, airflow: PlayedAirflow
) -> None:
    airflow.tasks = [export_task(number, "deferred") for number in range(count)]
    airflow.xcoms = {
        (task["dag_id"], "progress"): progress("RUNNING", 1, pending=1) for task in airflow.tasks
    }
    page.set_viewport_size({"width": 1360, "height": 6000})
    advance = open_exports(page, airflow)
    # Every other refresh reads the lists as well.
    for read in (6, 16, 22, 32):
        expect(page.locator("#rows tr")).to_have_count(min(count, 50))
        expect(page.locator("#rows").get_by_role("progressbar")).to_have_count(min(count, read))
        assert 1 <= len(airflow.asked) <= MOST_REQUESTS
        assert len(lists(airflow.asked)) <= 4
        assert all("limit=50" in url or "limit=0" in url for url in lists(airflow.asked)[:1])
        airflow.asked.clear()
        advance(5)


def test_only_rows_on_the_screen_are_read(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [export_task(number, "success", end_date=ago(minutes=number)) for number in range(50)]
    airflow.xcoms = {(task["dag_id"], "progress"): progress("SUCCEEDED", 1) for task in airflow.tasks}
    advance = open_exports(page, airflow)
    for _ in range(12):
        advance(5)
    read = {url.split("/")[4] for url in airflow.asked if "/xcomEntries/" in url}
    assert "dag-0" in read
    assert "dag-49" not in read
    airflow.asked.clear()
    for _ in range(12):
        advance(5)
    assert not [url for url in airflow.asked if "/xcomEntries/" in url], "what has ended is read once"
    page.locator("#rows tr").last.scroll_into_view_if_needed()
    for _ in range(12):
        advance(5)
    assert "dag-49" in {url.split("/")[4] for url in airflow.asked if "/xcomEntries/" in url}


def test_hidden_page_asks_for_nothing(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [export_task(1, "deferred")]
    page.add_init_script(
        "window.seen = 'visible';"
        "Object.defineProperty(document, 'visibilityState', { get: () => window.seen });"
    )
    advance = open_exports(page, airflow)
    expect(row_of(page, 1)).to_be_visible()
    page.evaluate("seen = 'hidden'; document.dispatchEvent(new Event('visibilitychange'))")
    advance(1)
    airflow.asked.clear()
    for _ in range(12):
        advance(10)
    assert airflow.asked == []
    # The text about the age of the list is as old as the page's last sight.
    with page.expect_response(lambda response: "/taskInstances" in response.url):
        page.evaluate("seen = 'visible'; document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#freshness")).to_have_text("List read 0 s ago.")
    assert lists(airflow.asked)


def test_pages_lead_through_all_exports(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [export_task(number, "failed", end_date=ago(minutes=number)) for number in range(30)]
    airflow.tasks += [
        export_task(number, "success", end_date=ago(minutes=number)) for number in range(30, 120)
    ]
    open_exports(page, airflow)
    expect(page.locator("#page")).to_have_text("1 to 50 of 120")
    found = names(page)
    for text in ("51 to 100 of 120", "101 to 120 of 120"):
        page.get_by_role("button", name="Next").click()
        expect(page.locator("#page")).to_have_text(text)
        found += names(page)
    assert found == [f"dag-{number} · export" for number in range(120)]
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.get_by_role("radio", name="Failed or retrying").check(force=True)
    expect(page.locator("#rows tr")).to_have_count(30)
    expect(page.locator("#pages")).to_be_hidden()


def test_pages_are_shorter_where_airflow_limits_lists(page: Page, airflow: PlayedAirflow) -> None:
    airflow.maximum_page_limit = 20
    airflow.tasks = [export_task(number, "failed", end_date=ago(minutes=number)) for number in range(30)]
    airflow.tasks += [export_task(30, "success")]
    open_exports(page, airflow)
    expect(page.locator("#page")).to_have_text("1 to 20 of 31")
    found = names(page)
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#page")).to_have_text("21 to 31 of 31")
    assert found + names(page) == [f"dag-{number} · export" for number in range(31)]


def test_filter_by_store_searches_all_exports_a_few_at_a_time(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [
        export_task(number, "success", end_date=ago(seconds=number), start_date=ago(seconds=number + 60))
        for number in range(1300)
    ]
    airflow.tasks[1234]["rendered_fields"]["dicom_store_id"] = "Needle"
    airflow.tasks.append(export_task(1300, "failed"))
    airflow.tasks[-1]["rendered_fields"] = {}
    advance = open_exports(page, airflow)
    expect(page.locator("#page")).to_have_text("1 to 50 of 1,301")
    airflow.asked.clear()
    page.get_by_label("DICOM store", exact=True).fill("needle")
    advance(1)
    expect(page.locator("#searched")).to_have_text(
        re.compile("Searched .* of at least 1,301 exports; found 0.")
    )
    for _ in range(4):
        assert len(airflow.asked) <= MOST_REQUESTS
        airflow.asked.clear()
        advance(5)
    expect(page.locator("#searched")).to_have_text("Searched all 1,301 exports; found 1.")
    expect(page.locator("#rows .task")).to_have_text(["dag-1234 · export"])
    # The state changes, and the row with it.
    airflow.tasks[1234] |= {"state": "failed", "end_date": ago(seconds=1)}
    for _ in range(10):
        advance(10)
    expect(page.locator("#rows .badge")).to_have_text(["Failed"])
    del airflow.tasks[1234]
    for _ in range(10):
        advance(10)
    expect(page.locator("#searched")).to_have_text("Searched all 1,300 exports; found 0.")
    expect(page.locator("#empty")).to_contain_text("No export of such a DICOM store")
    page.reload()
    expect(page.get_by_label("DICOM store", exact=True)).to_have_value("needle")


def test_filter_by_time_leaves_running_exports(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [
        export_task(1, "deferred", start_date=ago(days=20)),
        export_task(2, "failed", end_date=ago(days=5)),
        export_task(3, "failed", end_date=ago(hours=5)),
        # Its first try ended long ago.
        export_task(4, "queued", end_date=ago(days=20)),
    ]
    open_exports(page, airflow)
    expect(page.locator("#rows .task")).to_have_text([f"dag-{number} · export" for number in (3, 1, 4)])
    page.get_by_label("Ended in the last").select_option("7 days")
    expect(page.locator("#rows .task")).to_have_text([f"dag-{number} · export" for number in (3, 2, 1, 4)])
    expect(row_of(page, 2).locator(".age")).to_have_text("ended 5 days ago")


def test_rows_lead_to_the_tab_of_their_tasks(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [
        export_task(1, "deferred", dag_run_id="manual__2026-03-29T02:00:00+00:00"),
        export_task(2, "failed", map_index=3, rendered_map_index="pacs"),
    ]
    open_exports(page, airflow)
    run = "/dags/dag-1/runs/manual__2026-03-29T02%3A00%3A00%2B00%3A00/tasks/export"
    expect(row_of(page, 1).get_by_role("link")).to_have_attribute(
        "href", re.compile(f"{re.escape(run)}/plugin")
    )
    mapped = row_of(page, 2).get_by_role("link", name="dag-2 · export [pacs]")
    expect(mapped).to_have_attribute("href", re.compile("/tasks/export/mapped/3/plugin/dicom-export$"))


def test_focus_stays_when_rows_move(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [export_task(1, "deferred"), export_task(2, "deferred", start_date=ago(minutes=1))]
    advance = open_exports(page, airflow)
    expect(page.locator("#rows .task")).to_have_text(["dag-1 · export", "dag-2 · export"])
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "dag-2 · export":
            break
    airflow.tasks[1] |= {"state": "failed", "end_date": ago(minutes=0)}
    advance(10)
    expect(page.locator("#rows .task")).to_have_text(["dag-2 · export", "dag-1 · export"])
    expect(row_of(page, 2).get_by_role("link")).to_be_focused()


def test_page_has_headings_and_names_for_screen_readers(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [export_task(1, "deferred")]
    open_exports(page, airflow)
    expect(page.get_by_role("heading", level=1)).to_have_text("DICOM exports")
    expect(page.get_by_role("table", name="Export tasks, those that need attention first")).to_be_visible()
    expect(page.get_by_role("search", name="Which exports")).to_be_visible()
    expect(page.get_by_role("group", name="State").get_by_role("radio")).to_have_count(5)
    page.set_viewport_size({"width": 420, "height": 860})
    expect(page.get_by_role("row").nth(1).get_by_role("cell")).to_have_count(5)
    expect(page.get_by_role("columnheader")).to_have_count(6)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420


VALUES: dict[str, tuple[str, Any, str]] = {
    "hostile": (
        "success",
        {"progress": MARKUP, "return_value": {"dicom_store": 7, "destination": []}},
        "No counts",
    ),
    "of another kind": ("success", {"progress": [1], "return_value": "projects/p/operations/7"}, "Submitted"),
    "forbidden": ("deferred", {"progress": 403}, "does not permit you to see this DAG's XComs"),
    "broken": ("deferred", {"progress": 500}, "No counts"),
    "not there": ("failed", {}, "No counts"),
    "result": ("success", {"return_value": progress("SUCCEEDED", 7)}, "7 exported, 0 failed"),
}


@pytest.mark.parametrize("case", VALUES)
def test_xcoms_that_cannot_be_used_leave_the_rest_of_the_page(
    case: str, page: Page, airflow: PlayedAirflow
) -> None:
    state, xcoms, text = VALUES[case]
    airflow.tasks = [export_task(1, state), export_task(2, "deferred", start_date=ago(minutes=1))]
    airflow.tasks[0]["rendered_fields"] = {"dicom_store_id": {}, "destination": 7}
    airflow.xcoms = {("dag-1", key): value for key, value in xcoms.items()}
    airflow.xcoms["dag-2", "progress"] = progress("RUNNING", 1, pending=1)
    advance = open_exports(page, airflow)
    advance(5)
    expect(row_of(page, 1)).to_contain_text(text)
    expect(row_of(page, 2)).to_contain_text("50 % of 2")


def test_store_and_destination_come_from_the_result_where_airflow_has_dropped_the_rendered_fields(
    page: Page, airflow: PlayedAirflow
) -> None:
    airflow.tasks = [export_task(1, "success", rendered_fields={})]
    airflow.xcoms["dag-1", "progress"] = progress("SUCCEEDED", 1)
    store = "projects/p/locations/l/datasets/d/dicomStores/pacs"
    airflow.xcoms["dag-1", "return_value"] = {"dicom_store": store, "destination": "gs://old/"}
    advance = open_exports(page, airflow)
    advance(10)
    expect(row_of(page, 1).locator(".store")).to_have_text("pacs")
    expect(row_of(page, 1).locator(".destination")).to_have_text("gs://old/")


@pytest.mark.parametrize(
    ("status", "notice"), [(401, "You are not logged in to Airflow."), (403, "does not permit you to list")]
)
def test_without_the_right_to_list_tasks_nothing_is_shown(
    status: int, notice: str, page: Page, airflow: PlayedAirflow
) -> None:
    airflow.tasks = [export_task(1, "deferred")]
    advance = open_exports(page, airflow)
    expect(row_of(page, 1)).to_be_visible()
    airflow.status = status
    advance(10)
    expect(page.locator("#notice")).to_contain_text(notice)
    expect(page.locator("#content")).to_be_hidden()


def test_rows_stay_and_grow_old_while_airflow_does_not_answer(page: Page, airflow: PlayedAirflow) -> None:
    airflow.tasks = [export_task(1, "deferred")]
    airflow.xcoms["dag-1", "progress"] = progress("RUNNING", 1, pending=1)
    advance = open_exports(page, airflow)
    expect(row_of(page, 1)).to_contain_text("50 % of 2")
    airflow.status = 503
    advance(40)
    expect(page.locator("#notice")).to_have_text("Airflow does not answer; trying again.")
    expect(row_of(page, 1)).to_contain_text("50 % of 2")
    expect(row_of(page, 1).locator(".age")).to_have_text("counted 52 s ago")
    expect(row_of(page, 1).locator(".read")).to_have_text(re.compile(r"read (3|4)\d s ago"))
    expect(page.locator("#freshness")).to_have_text("List read 40 s ago.")
    airflow.status = None
    advance(30)
    expect(page.locator("#notice")).to_be_hidden()


def test_empty_page_says_what_is_missing(page: Page, airflow: PlayedAirflow) -> None:
    open_exports(page, airflow)
    expect(page.locator("#empty")).to_contain_text("No exports that you may see")
    expect(page.locator("#exports")).to_be_hidden()
    assert len(airflow.asked) == len(lists(airflow.asked)) == 4
