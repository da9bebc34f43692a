"""The page "DICOM exports" with the FAB auth manager, whose roles have rights to single DAGs."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext

# Only the environments of `make test-matrix` have it.
pytest.importorskip("airflow.providers.fab")
if shutil.which("chromium") is None and not os.environ.get("CI"):
    pytest.skip("Chromium is not installed", allow_module_level=True)

from playwright.sync_api import expect

from rig.web_server import AirflowWebServer
from tests.support.browser import launched_browser
from tests.support.web_interface import BOUND_MS

pytestmark = pytest.mark.airflow("3.1", "pages of plugins")

NOW = datetime.now(UTC)
READ = "can_read"
#: What everybody needs to see the pages of plugins, and of one DAG the tasks.
SITE = [[READ, "Website"], [READ, "Plugins"], [READ, "DAG Runs"]]
ONE_DAG = [*SITE, [READ, "DAG:export_a"], [READ, "Task Instances"]]
USERS: dict[str, dict[str, Any]] = {
    "vera": {"roles": ["Viewer"]},
    "nina": {"permissions": [*ONE_DAG, [READ, "XComs"]]},
    "tom": {"permissions": ONE_DAG},
    "zoe": {"permissions": SITE},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowWebServer]:
    """Airflow's web server with FAB's users, and one running export in each of two DAGs."""
    auth_manager = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
    server = AirflowWebServer(tmp_path_factory.mktemp("fab"), {"AIRFLOW__CORE__AUTH_MANAGER": auth_manager})
    record = {
        "operation_name": "projects/p/locations/l/datasets/d/operations/7",
        "state": "RUNNING",
        "success": 1,
        "failure": 0,
        "pending": 3,
        "create_time": (NOW - timedelta(minutes=1)).isoformat(),
        "end_time": None,
        "observed_at": NOW.isoformat(),
        "message": None,
    }
    tasks = [
        {
            "dag_id": dag_id,
            "run_id": "nightly",
            "state": "deferred",
            "start_date": record["create_time"],
            "fields": {"dicom_store_id": f"store-of-{dag_id}", "destination": f"gs://{dag_id}/"},
            "xcoms": {"progress": record},
        }
        for dag_id in ("export_a", "export_b")
    ]
    server.run(["-m", "tests.support.stored_exports"], tasks)
    server.run(["-m", "tests.support.fab_users"], USERS)
    with server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser."""
    expect.set_options(timeout=BOUND_MS)
    with launched_browser() as browser:
        yield browser


def person(name: str, browser: Browser, server: AirflowWebServer) -> BrowserContext:
    """Return a browser with a logged-in user."""
    context = browser.new_context(viewport={"width": 1360, "height": 860})
    context.set_default_timeout(BOUND_MS)
    page = context.new_page()
    page.goto(f"{server.url}/auth/login/")
    page.fill("input[name=username]", name)
    page.fill("input[name=password]", name)
    page.click("input[type=submit], button[type=submit]")
    page.wait_for_url(lambda url: "/auth/login" not in url)
    page.close()
    return context


@pytest.mark.parametrize(
    ("name", "dags", "counts"),
    [
        ("vera", ["export_a", "export_b"], "25 % of 4"),
        ("nina", ["export_a"], "25 % of 4"),
        ("tom", ["export_a"], "does not permit you to see this DAG's XComs"),
    ],
)
def test_page_shows_the_exports_of_the_dags_that_the_role_may_read(
    name: str, dags: list[str], counts: str, browser: Browser, server: AirflowWebServer
) -> None:
    with person(name, browser, server) as context, context.new_page() as page:
        page.goto(f"{server.url}/dicom-export/exports.html")
        expect(page.locator("#rows .task")).to_have_text([f"{dag_id} · export" for dag_id in dags])
        expect(page.locator("#count-")).to_have_text(str(len(dags)))
        for dag_id in dags:
            expect(page.get_by_role("row").filter(has_text=f"{dag_id} · ")).to_contain_text(counts)
        if "export_b" not in dags:
            assert "export_b" not in page.content()


def test_page_shows_nothing_without_a_right_to_any_dag(browser: Browser, server: AirflowWebServer) -> None:
    with person("zoe", browser, server) as context, context.new_page() as page:
        page.goto(f"{server.url}/dicom-export/exports.html")
        expect(page.locator("#notice")).to_have_text(
            "Your role in Airflow does not permit you to list the tasks of DAGs."
        )
        expect(page.locator("#content")).to_be_hidden()


def test_page_is_in_the_navigation_of_who_may_read_plugins(
    browser: Browser, server: AirflowWebServer
) -> None:
    with person("nina", browser, server) as context, context.new_page() as page:
        page.goto(server.url)
        page.get_by_role("link", name="DICOM exports").click()
        rows = page.frame_locator("iframe").locator("#rows .task")
        expect(rows).to_have_text(["export_a · export"])
