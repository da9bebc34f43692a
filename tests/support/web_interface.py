"""Airflow's web interface, with users who log in by a browser."""

from __future__ import annotations

import json
import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rig.airflow import AirflowStandalone
from rig.control import Control
from rig.dicom_files import sample_files
from rig.ports import LOOPBACK
from rig.servers import ROOT, HealthcareEmulator, wait_for
from tests.support.browser import launched_browser
from tests.support.mailbox import Mailbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext

    from rig.servers import StorageEmulator

from playwright.sync_api import expect

#: What the Airflow that is served in tests has: a bucket, DICOM stores with files, and a password.
BUCKET = "web"
STORES = "projects/test-project/locations/europe-west3/datasets/radiology/dicomStores"
FILES = {"followed-1": sample_files()[:12], "followed-2": sample_files()[:5], "pacs": sample_files()[:8]}
PASSWORD = "canary-of-some-db"
#: The longest wait of the browser, in milliseconds; on an idle machine it takes seconds.
BOUND_MS = 90_000


@dataclass
class Web:
    """An Airflow with users, its Healthcare API, and DAG runs whose exports are held at their beginning."""

    airflow: AirflowStandalone
    control: Control
    browser: Browser
    mailbox: Mailbox
    runs: dict[str, str] = field(default_factory=dict)

    def trigger(self, dag_id: str, conf: dict[str, Any], **kwargs: Any) -> str:
        """Start a run."""
        self.runs[dag_id] = self.airflow.rest.trigger(dag_id, conf, **kwargs)
        return self.runs[dag_id]

    def operation(self, store: str) -> str:
        """Wait for the export of a store, and return its Operation's name."""

        def submitted() -> str | None:
            exports = self.control.exports()["operations"]
            names = [one["name"] for one in exports if one["dicomStore"].endswith(f"/{store}")]
            return names[-1] if names else None

        return str(wait_for(f"the export of {store}", submitted, timeout=90))

    def page_address(self, dag_id: str, task_id: str = "export", map_index: int = -1) -> str:
        """Return the address of the progress page that the tab shows."""
        values = {"dag_id": dag_id, "run_id": self.runs["followed"], "task_id": task_id}
        values |= {"run_id": self.runs[dag_id]} if dag_id in self.runs else {}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in values.items())
        return f"{self.airflow.url}/dicom-export/?{query}&map_index={map_index}"

    def person(self, name: str | None, **options: Any) -> BrowserContext:
        """Return a browser with or without a logged-in user."""
        context = self.browser.new_context(viewport={"width": 1360, "height": 860}, **options)
        context.set_default_timeout(BOUND_MS)
        context.set_default_navigation_timeout(BOUND_MS)
        if name:
            page = context.new_page()
            page.goto(self.airflow.url)
            page.fill("input[name=username]", name)
            page.fill("input[name=password]", name)
            page.click("button[type=submit]")
            expect(page.get_by_role("link", name="Dags").first).to_be_visible()
            page.close()
        return context


@contextmanager
def serve_web(
    folder: Path, server_logs: Path, storage: StorageEmulator, bucket: str, password: str
) -> Iterator[Web]:
    """Run an Airflow with users, a Healthcare API whose exports are stepped by hand, and a browser.

    :param folder: an empty folder.
    :param server_logs: folder for the log of the Healthcare API.
    :param storage: the Cloud Storage emulator.
    :param bucket: the bucket to create.
    :param password: the password of the connection ``some_db``.
    """
    expect.set_options(timeout=BOUND_MS)
    shutil.copytree(ROOT / "example_dags", folder / "dags" / "examples")
    for name in ("followed.py", "export_modes.py", "forwarded.py"):
        shutil.copy(ROOT / "tests" / "integration" / "real_airflow" / "dags" / name, folder / "dags")
    storage.create_bucket(bucket)
    emulator_env = {"STORAGE_EMULATOR_HOST": storage.url}
    with (
        Mailbox() as mailbox,
        HealthcareEmulator(server_logs / "web", env=emulator_env) as healthcare,
        AirflowStandalone(
            folder / "home",
            folder / "dags",
            {
                "HEALTHCARE_EMULATOR_HOST": healthcare.url,
                "STORAGE_EMULATOR_HOST": storage.url,
                "DICOM_BUCKET": bucket,
                "RIG_HIDDEN_DAG": "nora:followed",
                "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
                "AIRFLOW_CONN_SOME_DB": json.dumps({"conn_type": "http", "password": password}),
                "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(
                    {
                        "conn_type": "smtp",
                        "host": LOOPBACK,
                        "port": mailbox.port,
                        "extra": {"disable_ssl": True, "disable_tls": True},
                    }
                ),
            },
            users={"ada": "admin", "nora": "viewer", "uli": "user"},
        ) as airflow,
        launched_browser() as browser,
    ):
        threading.Thread(target=mailbox.serve_forever, args=(0.1,), daemon=True).start()
        control = Control(healthcare.url)
        control.settings(advance="manual")
        yield Web(airflow, control, browser, mailbox)
        mailbox.shutdown()
