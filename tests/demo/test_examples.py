"""The examples in the Airflow that the demo leaves open: each is clicked in a browser, with its defaults."""

from __future__ import annotations

import os
import re
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from demo.export import example_files
from rig.airflow import RestClient
from rig.servers import wait_for
from tests.support.browser import launched_browser
from tests.support.running_demo import RunningDemo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

if shutil.which("chromium") is None and not os.environ.get("CI"):
    pytest.skip("Chromium is not installed", allow_module_level=True)

from playwright.sync_api import expect

BOUND_MS = 90_000
#: The DAG that is started by the asset of another one, and by a click.
CONSUMER = "dicom_night_consumer"
#: The tasks that have nothing to do if nothing is missing.
SKIPPED = {"dicom_nightly_complete": {"export_missing[-1]", "check_missing[-1]"}}
DAGS = [path.stem for path in example_files()]


class OpenDemo:
    """A demo that has left Airflow open."""

    def __init__(self, demo: RunningDemo) -> None:
        self.demo = demo
        address = re.search(r"http://127\.0\.0\.1:\d+(?=/dags/)", demo.output)
        assert address, demo.output
        self.url = address[0]
        self.rest = RestClient(self.url)

    def click(self, page: Page, dag_id: str) -> str:
        """Trigger a DAG with two clicks, and return the run's id."""
        before = self.rest.run_ids(dag_id)
        page.goto(f"{self.url}/dags/{dag_id}")
        page.get_by_test_id("trigger-dag-button").click()
        form = page.get_by_role("dialog")
        form.get_by_role("button", name="Trigger", exact=True).click()
        runs = wait_for(
            f"a run of {dag_id}", lambda: set(self.rest.run_ids(dag_id)) - set(before), timeout=60
        )
        (run_id,) = runs
        return str(run_id)

    def states(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Wait for a run's end, and return the states of its tasks."""
        state = self.rest.wait(dag_id, run_id, timeout=240)
        tasks = self.rest.tasks(dag_id, run_id)
        logs = [
            self.rest.log(dag_id, run_id, task["task_id"], max(task["try_number"], 1), task["map_index"])
            for task in tasks
            if task["state"] not in ("success", "skipped", None, "upstream_failed")
        ]
        assert state == "success", "\n".join([dag_id, *logs])
        return {f"{task['task_id']}[{task['map_index']}]": task["state"] for task in tasks}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenDemo]:
    """The demo on a terminal, at its end."""
    demo = RunningDemo(tmp_path_factory.mktemp("demo"), terminal=True)
    try:
        demo.wait_for_output("Press Ctrl-C", timeout=300)
        yield OpenDemo(demo)
        demo.process.send_signal(signal.SIGINT)
        assert demo.end() == 0, demo.output
        assert demo.left_running() == []
    finally:
        demo.close()


@pytest.fixture(scope="module")
def runs(opened: OpenDemo) -> dict[str, str]:
    """A run of each example, triggered in a browser; all run at the same time."""
    expect.set_options(timeout=BOUND_MS)
    with (
        launched_browser() as browser,
        browser.new_page() as page,
    ):
        page.set_default_timeout(BOUND_MS)
        return {dag_id: opened.click(page, dag_id) for dag_id in DAGS}


def test_summary_says_what_to_click_next(opened: OpenDemo) -> None:
    output = opened.demo.output
    assert "Instances that failed: 0. Expected objects that are missing: 0." in output
    for dag_id in DAGS:
        assert re.search(rf"^{dag_id} +[A-Z]", output, re.MULTILINE), output
    for address in re.findall(r"^  (http\S+)", output, re.MULTILINE):
        with opened.rest._session.get(address, timeout=30) as answer:
            assert answer.ok, address


@pytest.mark.parametrize("dag_id", DAGS)
def test_example_runs_by_a_click_with_its_defaults(
    dag_id: str, runs: dict[str, str], opened: OpenDemo
) -> None:
    states = opened.states(dag_id, runs[dag_id])
    assert {task for task, state in states.items() if state != "success"} == SKIPPED.get(dag_id, set())
    assert any(task.startswith("export[") for task in states)


def test_consumer_of_the_nights_runs_by_a_click(opened: OpenDemo, runs: dict[str, str]) -> None:
    producer = "dicom_incremental_by_study_date"
    opened.states(producer, runs[producer])
    run_id = opened.rest.trigger(CONSUMER)
    opened.states(CONSUMER, run_id)
    assert opened.rest.xcom(CONSUMER, run_id, "count_files") == 5
