"""What Airflow's own commands tell about the installed provider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from subprocess import CompletedProcess
from typing import Any

import pytest

from airflow_provider_dicom import __version__, connection_type
from airflow_provider_dicom.provider_info import get_provider_info
from rig.releases import chosen_release

DISTRIBUTION = "airflow-provider-dicom"
HOOK = "airflow_provider_dicom.hooks.dicom_store.DicomStoreHook"
MODULES = ("hooks", "operators", "sensors", "triggers", "extra-links")
COMMANDS = ("list", f"get {DISTRIBUTION} --full", "hooks", "links", "triggers", "widgets", "behaviours")
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CompletedProcess[str]]:
    """What came of ``airflow providers COMMAND``, by command."""
    home = tmp_path_factory.mktemp("airflow")

    def ask(command: str) -> CompletedProcess[str]:
        asked = [sys.executable, "-m", "airflow", "providers", *command.split(), "--output", "json"]
        env = os.environ | {"AIRFLOW_HOME": str(home / command.split()[0])}
        return subprocess.run(asked, env=env, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(COMMANDS, pool.map(ask, COMMANDS), strict=True))


def rows(done: CompletedProcess[str]) -> Rows:
    """The rows that a command has listed."""
    assert done.returncode == 0, done.stderr
    # In front of it may be lines of a log.
    listed: Rows = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith(("[{", "[]")))
    )
    if not listed and chosen_release().line == (3, 1):
        pytest.skip("Airflow 3.1 without the FAB provider lists nobody's")
    return listed


def test_airflow_lists_the_installed_provider(printed: dict[str, CompletedProcess[str]]) -> None:
    (ours,) = [row for row in rows(printed["list"]) if row["package_name"] == DISTRIBUTION]
    assert ours["version"] == __version__
    assert get_provider_info()["description"].startswith(ours["description"])


def test_airflow_shows_the_metadata_of_the_provider(printed: dict[str, CompletedProcess[str]]) -> None:
    (ours,) = rows(printed[f"get {DISTRIBUTION} --full"])
    expected = get_provider_info()
    assert {kind: ours[kind] for kind in MODULES} == {kind: expected[kind] for kind in MODULES}


def test_airflow_lists_the_hook_and_the_connection_type(printed: dict[str, CompletedProcess[str]]) -> None:
    (ours,) = [row for row in rows(printed["hooks"]) if row["connection_type"] == connection_type.CONN_TYPE]
    assert (ours["class"], ours["conn_id_attribute_name"]) == (HOOK, "gcp_conn_id")
    assert (ours["package_name"], ours["hook_name"]) == (DISTRIBUTION, connection_type.HOOK_NAME)


def test_airflow_lists_the_extra_links(printed: dict[str, CompletedProcess[str]]) -> None:
    listed = {row["extra_link_class_name"] for row in rows(printed["links"])}
    assert listed >= set(get_provider_info()["extra-links"])


def test_airflow_lists_the_triggers_module(printed: dict[str, CompletedProcess[str]]) -> None:
    (ours,) = [row for row in rows(printed["triggers"]) if row["package_name"] == DISTRIBUTION]
    assert ours["class"] == "airflow_provider_dicom.triggers.dicom_store"


def test_airflow_lists_the_fields_of_the_connection_type(printed: dict[str, CompletedProcess[str]]) -> None:
    prefix = f"extra__{connection_type.CONN_TYPE}__"
    ours = {
        row["connection_parameter_name"].removeprefix(prefix): row
        for row in rows(printed["widgets"])
        if row["connection_parameter_name"].startswith(prefix)
    }
    # Airflow 2 gives the bare name.
    assert {row["class"].rpartition(".")[2] for row in ours.values()} == {"DicomStoreHook"}
    (ours_in_metadata,) = get_provider_info()["connection-types"]
    known = ours_in_metadata["conn-fields"].keys()
    # The metadata of older Google providers does not list its own fields.
    assert ours.keys() == known if "keyfile_dict" in known else ours.keys() > known


def test_airflow_lists_the_form_of_the_connection_type(printed: dict[str, CompletedProcess[str]]) -> None:
    assert connection_type.CONN_TYPE in {
        value for row in rows(printed["behaviours"]) for value in row.values()
    }
