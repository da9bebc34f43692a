"""The plugin: it serves the files of its two pages and nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from airflow_provider_dicom.plugins import dicom_store as module
from airflow_provider_dicom.plugins.dicom_store import DicomExportPlugin, ProgressPage
from airflow_provider_dicom.provider_info import get_provider_info

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(module._PAGE.iterdir())


@pytest.fixture(params=["", "/airflow"], ids=["at the root", "under a path"])
def client(request: pytest.FixtureRequest) -> TestClient:
    """A client of a web server that mounts the page as Airflow does."""
    app = Starlette(routes=[Mount(module.URL_PREFIX, ProgressPage())])
    return TestClient(app, f"http://testserver{request.param}/", root_path=request.param)


@pytest.mark.parametrize("name", ["", "exports.html"])
def test_page_is_served_with_its_files(name: str, client: TestClient) -> None:
    page = client.get(f"dicom-export/{name}", params={"dag_id": "any", "task_id": "<script>"})
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "<script>" not in page.text
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    while needed:
        file = client.get(f"dicom-export/{needed.pop()}")
        assert file.status_code == 200
        needed += re.findall(r'from "\./([^"]+)"', file.text)


def test_content_security_policy_permits_the_pages_own_server_only(client: TestClient) -> None:
    policy = client.get("dicom-export/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert "unsafe" not in policy
    known = re.compile(r'"https://"|xmlns="http://www.w3.org/2000/svg"')
    for path in FILES:
        assert not re.search(r"https?://", known.sub("", path.read_text())), path.name


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".js"], ids=lambda path: path.name)
def test_scripts_insert_data_as_text_never_as_markup(path: Path) -> None:
    script = path.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", script)


@pytest.mark.parametrize(
    "path", ["../dicom_store.py", "%2e%2e/dicom_store.py", "..%2f..%2fprovider_info.py", "nothing", "api/x"]
)
def test_paths_outside_the_progress_page_are_not_found(path: str, client: TestClient) -> None:
    assert client.get(f"dicom-export/{path}").status_code == 404


def test_progress_page_accepts_no_post(client: TestClient) -> None:
    assert client.post("dicom-export/", json={}).status_code == 405


def test_page_of_all_exports_is_in_the_navigation(client: TestClient) -> None:
    (view,) = (view for view in DicomExportPlugin.external_views if view["destination"] == "nav")
    for address in (view["href"], view["icon"], view["icon_dark_mode"]):
        assert not address.startswith("/"), "Airflow may be served under a path"
        assert client.get(address).status_code == 200


def test_tab_belongs_to_a_task_instance() -> None:
    (view,) = (view for view in DicomExportPlugin.external_views if view["destination"] != "nav")
    assert view["destination"] == "task_instance"
    assert not view["href"].startswith("/"), "Airflow may be served under a path"
    for placeholder in ("{DAG_ID}", "{RUN_ID}", "{TASK_ID}", "{MAP_INDEX}"):
        assert placeholder in view["href"]


LIST_PLUGINS = """
from airflow import plugins_manager
if hasattr(plugins_manager, "_get_plugins"):
    loaded, errors = plugins_manager._get_plugins()
else:  # before Airflow 3.3
    plugins_manager.ensure_plugins_loaded()
    loaded, errors = plugins_manager.plugins, plugins_manager.import_errors
print([plugin.name for plugin in loaded].count("dicom_export"), [e for e in errors if "dicom" in str(e)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("lazy", ["True", "False"])
def test_airflow_loads_the_plugin_once_with_lazy_and_eager_providers(lazy: str, tmp_path: Path) -> None:
    settings = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LAZY_DISCOVER_PROVIDERS": lazy}
    done = subprocess.run(
        [sys.executable, "-c", LIST_PLUGINS], env=os.environ | settings, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["1 []"], done.stdout + done.stderr


def test_provider_info_and_entry_point_name_the_same_plugin() -> None:
    (plugin,) = get_provider_info()["plugins"]
    assert plugin["name"] == DicomExportPlugin.name
    assert plugin["plugin-class"] == f"{DicomExportPlugin.__module__}.{DicomExportPlugin.__qualname__}"
    (entry_point,) = importlib.metadata.entry_points(group="airflow.plugins", name="dicom_export")
    assert entry_point.load() is DicomExportPlugin


@pytest.mark.slow
def test_import_of_the_plugin_loads_no_web_framework() -> None:
    program = (
        f"import sys, {module.__name__}; print([n for n in ('starlette', 'fastapi') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
