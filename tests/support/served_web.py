"""One Airflow with users, a browser, and exports that are held; and people who have logged in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rig.dicom_files import create_store, upload
from tests.support.web_interface import BUCKET, FILES, PASSWORD, STORES, Web, serve_web

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
    with serve_web(tmp_path_factory.mktemp("web"), server_logs, storage, BUCKET, PASSWORD) as web:
        for store, files in FILES.items():
            create_store(web.control.url, f"{STORES}/{store}")
            upload(web.control.url, f"{STORES}/{store}", files)
        web.trigger("followed", {"destination": f"gs://{BUCKET}/{MARKUP}/"})
        web.trigger("on_worker", {"store": "followed-2", "bucket": BUCKET}, logical_date=NIGHT)
        yield web


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
