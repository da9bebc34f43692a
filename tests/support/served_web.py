"""One Airflow with users, a browser, and exports that are held; and people who have logged in."""

from __future__ import annotations

import json
import shutil
import threading
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

from rig.airflow import AirflowStandalone
from rig.control import Control
from rig.dicom_files import create_store, upload
from rig.ports import LOOPBACK
from rig.servers import ROOT, HealthcareEmulator
from tests.support.mailbox import Mailbox
from tests.support.web_interface import BOUND_MS, BUCKET, FILES, PASSWORD, STORES, Web

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import BrowserContext

    from rig.servers import StorageEmulator

__all__ = ["ada", "nora", "web"]
MARKUP = "<img src=x onerror=alert(1)>"
NIGHT = "2026-03-29T02:00:00Z"


@pytest.fixture(scope="module")
def web(
    tmp_path_factory: pytest.TempPathFactory, server_logs: Path, storage: StorageEmulator
) -> Iterator[Web]:
    """One Airflow for all tests here: they take less time than its start."""
    expect.set_options(timeout=BOUND_MS)
    folder = tmp_path_factory.mktemp("web")
    shutil.copytree(ROOT / "example_dags", folder / "dags" / "examples")
    for name in ("followed.py", "export_modes.py", "forwarded.py"):
        shutil.copy(ROOT / "tests" / "integration" / "real_airflow" / "dags" / name, folder / "dags")
    storage.create_bucket(BUCKET)
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
                "DICOM_BUCKET": BUCKET,
                "RIG_HIDDEN_DAG": "nora:followed",
                "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
                "AIRFLOW_CONN_SOME_DB": json.dumps({"conn_type": "http", "password": PASSWORD}),
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
        sync_playwright() as playwright,
        # Chromium's own sandbox does not work for root, and only our own pages are opened.
        playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        ) as browser,
    ):
        threading.Thread(target=mailbox.serve_forever, args=(0.1,), daemon=True).start()
        control = Control(healthcare.url)
        control.settings(advance="manual")
        for store, files in FILES.items():
            create_store(healthcare.url, f"{STORES}/{store}")
            upload(healthcare.url, f"{STORES}/{store}", files)
        web = Web(airflow, control, browser, mailbox)
        web.trigger("followed", {"destination": f"gs://{BUCKET}/{MARKUP}/"})
        web.trigger("on_worker", {"store": "followed-2", "bucket": BUCKET}, logical_date=NIGHT)
        yield web
        mailbox.shutdown()


@pytest.fixture(scope="module")
def ada(web: Web) -> Iterator[BrowserContext]:
    """A browser of somebody who may do everything."""
    with web.person("ada") as context:
        yield context


@pytest.fixture(scope="module")
def nora(web: Web) -> Iterator[BrowserContext]:
    """A browser of somebody who may see all DAGs but one."""
    with web.person("nora") as context:
        yield context
