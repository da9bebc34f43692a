"""Airflow's REST API as the pages of the web interface need it, answered inside a browser, and recorded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from airflow_provider_dicom.plugins import dicom_store as plugin

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page, Route

ORIGIN = "http://airflow.test"
#: The clock of the browser moves by so many seconds at once, the page's pause between two refreshes.
STEP = 5
#: The time in the browser.
NOW = datetime(2026, 3, 29, 6, 0, tzinfo=UTC)
OPERATION = "projects/p/locations/europe-west3/datasets/radiology/operations/7"


def ago(**units: float) -> str:
    """Return a time before now, as Airflow writes it."""
    return (NOW - timedelta(**units)).isoformat().replace("+00:00", "Z")


def export_task(number: int, state: str | None, **fields: Any) -> dict[str, Any]:
    """Return a task instance of an export as the REST API returns it."""
    has_ended = state in ("success", "failed", "up_for_retry", "skipped", "upstream_failed")
    return {
        "dag_id": f"dag-{number}",
        "dag_display_name": f"dag-{number}",
        "dag_run_id": f"run-{number}",
        "task_id": "export",
        "task_display_name": "export",
        "map_index": -1,
        "rendered_map_index": None,
        "state": state,
        "try_number": 1,
        "operator": "DicomStoreExportOperator",
        "run_after": ago(hours=4),
        "start_date": ago(hours=1) if state not in (None, "queued", "scheduled") else None,
        "end_date": ago(minutes=10) if has_ended else None,
        "rendered_fields": {"dicom_store_id": f"store-{number}", "destination": f"gs://bucket/{number}/"},
        **fields,
    }


def progress(state: str, success: int, failure: int = 0, pending: int = 0, **fields: Any) -> dict[str, Any]:
    """Return a progress record."""
    return {
        "operation_name": OPERATION,
        "state": state,
        "success": success,
        "failure": failure,
        "pending": pending,
        "create_time": ago(hours=1),
        "end_time": None if state == "RUNNING" else ago(minutes=10),
        "observed_at": ago(seconds=12),
        "message": None,
        **fields,
    }


class PlayedAirflow:
    """An Airflow with tasks and XComs, which answers like the REST API; it records what it is asked.

    XComs are found by ``(dag_id, key)``; a number among them is the status of the answer.
    """

    def __init__(self) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.xcoms: dict[tuple[str, str], Any] = {}
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[str] = []
        #: Airflow's setting ``[api] maximum_page_limit``.
        self.maximum_page_limit = 100
        #: The status of every answer; None answers as usual.
        self.status: int | None = None

    def serve(self, page: Page) -> None:
        """Answer all requests of a page."""
        page.unroute_all()
        page.route("**/*", self._answer)

    def _answer(self, route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.path.startswith(f"{plugin.URL_PREFIX}/"):
            file = plugin._PAGE / (url.path.removeprefix(f"{plugin.URL_PREFIX}/") or "index.html")
            route.fulfill(path=file) if file.is_file() else route.fulfill(status=404)
            return
        self.asked.append(f"{url.path}?{url.query}")
        if self.status is not None:
            route.fulfill(status=self.status, json={})
            return
        parts = [unquote(part) for part in url.path.removeprefix("/api/v2/").split("/")]
        answer = self._find(parts, parse_qs(url.query))
        route.fulfill(status=answer, json={}) if isinstance(answer, int) else route.fulfill(json=answer)

    def _find(self, parts: list[str], query: dict[str, list[str]]) -> Any:
        match parts:
            case ["dags", "~", "dagRuns", "~", "taskInstances"]:
                return self._list(query)
            case ["dags", dag_id, "dagRuns", _, "taskInstances", _, "xcomEntries", key]:
                value = self.xcoms.get((dag_id, key), 404)
                return value if type(value) is int else {"value": value}
            case ["dags", dag_id, "dagRuns", _, "taskInstances", _, "logs", _]:
                return {"content": self.logs[dag_id]} if dag_id in self.logs else 404
        return 404

    def _list(self, query: dict[str, list[str]]) -> dict[str, Any]:
        (order,) = query["order_by"]
        since = query.get("end_date_gte", [""])[0]
        found = [
            task
            for task in self.tasks
            if task["operator"] in query["operator"]
            and (task["state"] or "none") in query["state"]
            and (task["end_date"] or NOW.isoformat()) >= since
        ]
        key = order.removeprefix("-")
        found.sort(key=lambda task: task[key] or "", reverse=order.startswith("-"))
        offset = int(query["offset"][0])
        limit = min(int(query["limit"][0]), self.maximum_page_limit)
        return {"task_instances": found[offset : offset + limit], "total_entries": len(found)}


def open_exports(page: Page, airflow: PlayedAirflow) -> Callable[[int], None]:
    """Open the page "DICOM exports" with a stopped clock.

    The function that is returned advances the clock by seconds, and waits until the page has read what is
    due.
    """

    def advance(seconds: int) -> None:
        # Answers arrive while the clock stands still, and the page sets its next timer after them.
        for step in [*[STEP] * (seconds // STEP), seconds % STEP]:
            page.clock.run_for(step * 1000)
            page.locator("main[aria-busy=false]").wait_for(state="attached")

    airflow.serve(page)
    page.clock.install(time=NOW - timedelta(seconds=1))
    page.clock.pause_at(NOW)
    page.goto(f"{ORIGIN}{plugin.URL_PREFIX}/exports.html")
    advance(0)
    return advance
