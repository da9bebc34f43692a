"""What people see: Airflow's web interface in a real browser, with people who have to log in."""

from __future__ import annotations

import os
import re
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
import requests

from rig.airflow import RestClient
from rig.dicom_files import uids_of
from rig.servers import ROOT, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

    from rig.servers import StorageEmulator

if shutil.which("chromium") is None and not os.environ.get("CI"):
    pytest.skip("Chromium is not installed", allow_module_level=True)

from playwright.sync_api import expect

from tests.support.served_web import *  # noqa: F403
from tests.support.web_interface import BUCKET, FILES, PASSWORD, STORES, Web

NIGHT = "2026-03-29T02:00:00Z"
MARKUP = "<img src=x onerror=alert(1)>"
HOSTILE = "{{ conn.some_db.password }}"
SCREENSHOTS = ROOT / "artifacts" / "screenshots"


def keep(page: Page, name: str) -> None:
    """Keep a picture of a page."""
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def open_form(page: Page, web: Web) -> Any:
    """Open the Trigger form of the on-demand export."""
    page.goto(f"{web.airflow.url}/dags/dicom_on_demand")
    page.get_by_test_id("trigger-dag-button").click()
    form = page.get_by_role("dialog")
    expect(form.locator("#element_destination")).to_be_visible()
    return form


def runs_on_demand(web: Web) -> list[dict[str, Any]]:
    return list(web.airflow.rest.get("dags/dicom_on_demand/dagRuns")["dag_runs"])


@pytest.mark.parametrize(
    ("field", "section", "value", "complaint"),
    [
        ("folder", "Files (gs://)", "{{ conn.some_db.password }}", "does not match"),
        ("folder", "Files (gs://)", "../elsewhere", "does not match"),
        ("studies", "Only a part of the DICOM store", "/patients/7", "does not match"),
    ],
)
def test_the_form_refuses(
    field: str, section: str | None, value: str, complaint: str, web: Web, ada: BrowserContext
) -> None:
    before = runs_on_demand(web)
    with ada.new_page() as page:
        form = open_form(page, web)
        if section:
            form.get_by_role("button", name=section).click()
        form.locator(f"#element_{field}").fill(value)
        form.get_by_role("button", name="Trigger").click()
        expect(form.get_by_text(re.compile(complaint)).first).to_be_visible()
        keep(page, f"form-refuses-{field}")
    assert runs_on_demand(web) == before


def test_what_the_form_asks_for_arrives(web: Web, ada: BrowserContext, storage: StorageEmulator) -> None:
    study = uids_of(FILES["pacs"][0]).study
    with ada.new_page() as page:
        form = open_form(page, web)
        keep(page, "form")
        form.get_by_role("button", name="Files (gs://)").click()
        form.locator("#element_folder").fill("asked")
        form.locator("#element_form").click()
        keep(page, "form-files")
        page.get_by_text("Explicit VR Little Endian (uncompressed)").click()
        form.get_by_role("button", name="Only a part of the DICOM store").click()
        form.locator("#element_studies").fill(f"/studies/{study}")
        keep(page, "form-part")
        form.get_by_role("button", name="Trigger").click()
        (run,) = wait_for("the run", lambda: runs_on_demand(web), timeout=90)
        web.control.step(web.operation("pacs"))
        rest, run_id = web.airflow.rest, run["dag_run_id"]
        assert rest.wait("dicom_on_demand", run_id) == "success", rest.log(
            "dicom_on_demand", run_id, "export", 1, 0
        )
    expected = {uids_of(path).instance for path in FILES["pacs"] if uids_of(path).study == study}
    objects = storage.objects(BUCKET, "on-demand/asked/")
    assert {name.rpartition("/")[2].removesuffix(".dcm") for name in objects} == expected
    for name in objects:
        path = web.airflow.home / "exported.dcm"
        path.write_bytes(storage.read(BUCKET, name))
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    task: Any = rest.task("dicom_on_demand", run_id, "export", 0)
    assert task["rendered_map_index"] == f"pacs to gs://{BUCKET}/on-demand/asked/"
    assert task["rendered_fields"]["resource_paths"] == [f"/studies/{study}"]


def test_person_who_may_only_trigger_reads_no_password_through_a_form(web: Web) -> None:
    rest = RestClient(web.airflow.url, "uli")
    with pytest.raises(requests.HTTPError, match="403"):
        rest.get("connections/some_db")
    form = rest.get("dags/dicom_on_demand/details")["params"]
    for name in form:
        values = [[f"/studies/1.2{HOSTILE}"]] if name == "studies" else [HOSTILE, f"gs://{BUCKET}/{HOSTILE}/"]
        for value in values:
            with pytest.raises(requests.HTTPError, match=r"4[02][02]"):
                rest.trigger("dicom_on_demand", {name: value})
    with pytest.raises(requests.HTTPError, match=r"4[02][02]"):
        rest.trigger("dicom_on_demand", {}, run_id=f"manual__{HOSTILE}")


def test_person_who_may_only_trigger_reads_no_password_through_a_careless_dag(web: Web) -> None:
    rest = RestClient(web.airflow.url, "uli")
    before = web.control.exports()["accepted"]
    arguments = {"location": "europe-west3", "dataset_id": "radiology", "dicom_store_id": "pacs"}
    destination = f"gs://{BUCKET}/{HOSTILE}/"
    run_id = rest.trigger("forwarded", {"arguments": {**arguments, "destination": destination}})
    assert rest.wait("forwarded", run_id) == "failed"
    log = str(rest.log("forwarded", run_id, "export", 1, 0))
    assert "destination still holds a template" in log
    task: Any = rest.task("forwarded", run_id, "export", 0)
    assert task["rendered_fields"]["destination"] == destination
    # Airflow masks passwords: "***" would mean that the value was rendered.
    assert task["rendered_map_index"] == destination
    assert PASSWORD not in f"{task}{log}"
    assert web.control.exports()["accepted"] == before


def test_progress_of_a_mapped_task(web: Web, ada: BrowserContext) -> None:
    rest, run_id = web.airflow.rest, web.runs["followed"]
    first = web.operation("followed-1")
    second = wait_for(
        "the second export", lambda: rest.xcom("followed", run_id, "export", "operation_name", 1), timeout=90
    )
    web.control.step(first, 3)
    tab = f"{web.airflow.url}/dags/followed/runs/{run_id}/tasks/export/mapped"
    with ada.new_page() as page:
        page.on("dialog", lambda dialog: pytest.fail(f"markup was run: {dialog.message}"))
        page.goto(f"{tab}/1/plugin/dicom-export")
        frame = page.frame_locator("iframe")
        expect(frame.locator("#headline")).to_have_text("0 % of 5 instances")
        page.goto(f"{tab}/0/plugin/dicom-export")
        expect(frame.locator("#headline")).to_have_text("25 % of 12 instances")
        expect(frame.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "25")
        expect(frame.locator("#destination")).to_have_text(f"gs://{BUCKET}/{MARKUP}/")
        expect(frame.locator("#operation")).to_have_text(first)
        expect(frame.locator("img")).to_have_count(0)
        for number in ("rate", "elapsed", "remaining"):
            expect(frame.locator(f"#{number}")).to_have_text(re.compile(r"\d"))

        page.evaluate("window.notReloaded = true")
        frame.locator("body").evaluate("() => { window.notReloaded = true; }")
        web.control.step(first, 3)
        expect(frame.locator("#headline")).to_have_text("50 % of 12 instances")
        assert page.evaluate("window.notReloaded")
        assert frame.locator("body").evaluate("() => window.notReloaded")
        keep(page, "progress")

        link = frame.get_by_role("link", name="Export logs")
        assert first.rpartition("/")[2] in (link.get_attribute("href") or "")
        # Airflow's frame permits no new windows: the link has to be followed from outside of it.
        with page.expect_popup() as popup:
            link.click()
        popup.value.close()

        for operation in {first, web.operation("followed-1"), str(second)}:
            web.control.step(operation)
        expect(frame.locator("#badge")).to_have_text("Succeeded")
        expect(frame.locator("#headline")).to_have_text("100 % of 12 instances")
        keep(page, "progress-ended")
    log = rest.log("followed", run_id, "export", 1, 0)
    assert (
        f"Submitted the request to export {STORES}/followed-1 to gs://{BUCKET}/{MARKUP}/. Operation: {first}"
        in log
    )
    assert "3 exported, 0 failed, 9 pending, 25% done" in log
    assert re.search(
        r"Export ended as SUCCEEDED: 12 exported, 0 failed in [\d.]+ s \([\d.]+ instances/\w+\)", log
    )
    assert log.count("Export running") <= 4, "no line per poll"


def test_page_of_all_exports_is_in_the_navigation_and_leads_to_the_tab(web: Web, ada: BrowserContext) -> None:
    web.operation("followed-2")
    with ada.new_page() as page:
        page.on("dialog", lambda dialog: pytest.fail(f"markup was run: {dialog.message}"))
        page.goto(web.airflow.url)
        page.get_by_role("link", name="DICOM exports").click()
        frame = page.frame_locator("iframe")
        expect(frame.get_by_role("heading", level=1)).to_have_text("DICOM exports")
        ended = frame.get_by_role("row").filter(has_text="followed · export [followed-1]")
        expect(ended).to_contain_text(re.compile("12 exported, 0 failed|% of 12"))
        expect(ended).to_contain_text(f"gs://{BUCKET}/{MARKUP}/")
        expect(frame.locator("main img")).to_have_count(0)
        running = frame.get_by_role("row").filter(has_text="on_worker · export")
        expect(running).to_contain_text("0 % of 5")
        keep(page, "exports")
        running.get_by_role("link").click()
        expect(page).to_have_url(re.compile(r"/dags/on_worker/runs/.*/tasks/export/plugin/dicom-export$"))
        expect(frame.locator("#headline")).to_have_text("0 % of 5 instances")


def test_page_of_all_exports_shows_only_what_the_viewer_may_see(web: Web, nora: BrowserContext) -> None:
    web.operation("followed-2")
    with nora.new_page() as page:
        page.goto(f"{web.airflow.url}/dicom-export/exports.html")
        expect(page.get_by_role("row").filter(has_text="on_worker · export")).to_contain_text("0 % of 5")
        expect(page.get_by_role("row").filter(has_text="followed · ")).to_have_count(0)
        assert "followed-1" not in page.inner_text("body")
    with web.person(None) as nobody, nobody.new_page() as page:
        page.goto(f"{web.airflow.url}/dicom-export/exports.html")
        expect(page.locator("#notice")).to_have_text("You are not logged in to Airflow.")


def test_links_are_there_while_the_export_runs(web: Web) -> None:
    rest, run_id = web.airflow.rest, web.trigger("followed", {"destination": f"gs://{BUCKET}/links/"})

    def links(dag_id: str, run_id: str, map_index: int) -> dict[str, str] | None:
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/export/links"
        found: dict[str, str] = rest.get(path, map_index=map_index)["extra_links"]
        return found if all(found.values()) else None

    deferred = wait_for("the links", lambda: links("followed", run_id, 0), timeout=90)
    assert rest.task("followed", run_id, "export", 0)["state"] == "deferred"
    on_worker = wait_for("the links", lambda: links("on_worker", web.runs["on_worker"], -1), timeout=90)
    assert rest.task("on_worker", web.runs["on_worker"], "export")["state"] == "running"
    for found in (deferred, on_worker):
        assert set(found) == {"DICOM store", "Export logs", "Export destination"}
        assert all(url.startswith("https://console.cloud.google.com/") for url in found.values())
    assert deferred["Export destination"].endswith(f"/{BUCKET}/links")


def test_progress_of_an_export_on_the_worker(web: Web, nora: BrowserContext) -> None:
    """Nora may see this DAG."""
    web.operation("followed-2")
    with nora.new_page() as page:
        page.goto(web.page_address("on_worker"))
        expect(page.locator("#headline")).to_have_text("0 % of 5 instances")


@pytest.mark.parametrize("map_index", [0, 1])
def test_who_may_not_see_the_dag_sees_nothing(map_index: int, web: Web, nora: BrowserContext) -> None:
    with nora.new_page() as page:
        page.goto(web.page_address("followed", map_index=map_index))
        expect(page.locator("#notice")).to_contain_text("does not permit")
        expect(page.locator("#export")).to_be_hidden()
        assert "followed-" not in page.inner_text("body")


def test_nobody_sees_anything_without_login(web: Web) -> None:
    with web.person(None) as nobody, nobody.new_page() as page:
        page.goto(web.page_address("followed", map_index=0))
        expect(page.locator("#notice")).to_have_text("You are not logged in to Airflow.")
        expect(page.locator("#export")).to_be_hidden()


@pytest.mark.parametrize("dag_id", ["~", "..", "../dags", "followed/../on_worker", "", "~~", "a\\b"])
def test_a_forged_dag_id_is_not_asked_for(dag_id: str, web: Web, nora: BrowserContext) -> None:
    with nora.new_page() as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(web.page_address(dag_id))
        expect(page.locator("#notice")).to_have_text("Airflow knows no such task.")
        assert not [url for url in asked if "/api/" in url]


def test_airflow_itself_guards_the_data(web: Web) -> None:
    """The page has no data of its own: what it asks for, anybody could ask for, and is refused alike."""
    nora = RestClient(web.airflow.url, "nora")
    run_id = web.runs["followed"]
    for dag_id in ("followed", "~"):
        for what in ("", "/0", "/xcomEntries/progress", "/links"):
            with pytest.raises(requests.HTTPError) as refusal:
                nora.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/export{what}", map_index=0)
            assert refusal.value.response.status_code in (403, 404), (dag_id, what)
            unknown = requests.get(
                f"{web.airflow.url}/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/export{what}",
                timeout=60,
            )
            assert unknown.status_code == 401


def test_a_task_that_exports_nothing_says_so(web: Web, ada: BrowserContext) -> None:
    rest = web.airflow.rest
    run_id = web.trigger("no_wait", {"store": "followed-2", "bucket": BUCKET}, logical_date=NIGHT)
    assert rest.wait("no_wait", run_id) == "success"
    with ada.new_page() as page:
        page.goto(web.page_address("no_wait"))
        expect(page.locator("#notice")).to_contain_text("no progress record of an export")


def test_people_hear_of_a_late_run_and_of_a_missing_role_at_once(web: Web) -> None:
    rest = web.airflow.rest
    web.control.fault("export", status=403)
    try:
        yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        run_id = web.trigger("dicom_nightly_with_notices", {}, logical_date=yesterday)
        assert rest.wait("dicom_nightly_with_notices", run_id) == "failed"
    finally:
        web.control.clear_faults()
    assert rest.task("dicom_nightly_with_notices", run_id, "export")["try_number"] == 1
    log = rest.log("dicom_nightly_with_notices", run_id, "export")
    assert "DicomExportPermissionError" in log
    assert "Retry policy decision" in log
    wait_for("the mail", lambda: web.mailbox.mails, timeout=90)
    (mail,) = web.mailbox.mails
    assert "To: radiology-data@example.org" in mail
    assert f"DICOM export {run_id} is late" in mail.replace("\r\n ", "")


@pytest.mark.parametrize(
    ("store", "is_good", "words"),
    [("pacs", True, f"Read {STORES}/pacs."), ("nowhere", False, "dicomStores/nowhere")],
)
def test_a_connection_that_people_fill_in_can_be_tested(
    web: Web, ada: BrowserContext, store: str, is_good: bool, words: str
) -> None:
    page = ada.new_page()
    page.goto(f"{web.airflow.url}/connections")
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.locator("input[name=connection_id]").fill(f"dicom_{store}")
    form.get_by_role("combobox").first.click()
    page.keyboard.type("Google Cloud Healthcare DICOM store")
    page.keyboard.press("Enter")
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    values = {
        "project": "test-project",
        "location": "europe-west3",
        "dataset_id": "radiology",
        "dicom_store_id": store,
    }
    for name, value in values.items():
        form.locator(f"input[name=element_{name}]").fill(value)
    keep(page, "connection")
    form.get_by_role("button", name="Save").click()
    expect(page.get_by_role("cell", name=f"dicom_{store}", exact=True)).to_be_visible()
    page.close()
    # Not by the page's button: Airflow 3.3.2 has it send port 0 for none, and refuses that as another port.
    stored = {"connection_id": f"dicom_{store}", "conn_type": "google_cloud_dicom_store"}
    result = web.airflow.rest.call("POST", "connections/test", json=stored)
    assert (result["status"], words in result["message"]) == (is_good, True), result
