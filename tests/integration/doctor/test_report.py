"""The doctor's report, with the local Healthcare API and a real key: what it finds, and what it hides."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom import __version__
from airflow_provider_dicom.api import permissions
from airflow_provider_dicom.doctor.checks import CHECKS, Target
from airflow_provider_dicom.doctor.report import write_report
from rig.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.servers import HealthcareEmulator
    from tests.support.provider_fixtures import Connect
    from tests.support.token_server import TokenServer

SECRET = "s3cret"


def report_on(target: Target) -> tuple[int, str]:
    """Return the number of problems, and the report."""
    output = io.StringIO()
    return write_report(output, target), output.getvalue()


@pytest.fixture
def target(keyfile: str, store: DicomStoreName, healthcare: HealthcareEmulator) -> Target:
    """A connection with a key, and the test's DICOM store."""
    return Target(
        gcp_conn_id=keyfile,
        api_endpoint=healthcare.url,
        project_id=store.dataset.project_id,
        location=store.dataset.location,
        dataset_id=store.dataset.dataset_id,
        dicom_store_id=store.dicom_store_id,
    )


def test_report_tells_versions_account_endpoint_clock_and_roles(
    target: Target, store: DicomStoreName
) -> None:
    _, report = report_on(target)
    for title in CHECKS:
        assert re.search(rf"^{title}$", report, re.MULTILINE)
    for line in (
        rf"ok       airflow-provider-dicom: {__version__}",
        r"note     apache-airflow: \d+\.\d+",
        r"note     credentials: from keyfile_dict",
        r"ok       account: airflow@keyfile-project\.iam\.gserviceaccount\.com",
        rf"note     endpoint: {target.api_endpoint}",
        r"note     proxy: none",
        r"ok       answer: HTTP \d+ in \d",
        r"ok       clock: agrees",
        rf"ok       DICOM store: Read {store}\. .* may start exports and poll them, and cancel them\.",
    ):
        assert re.search(rf"^  {line}", report, re.MULTILINE), report


def test_missing_role_is_a_problem_with_the_command_that_grants_it(target: Target, control: Control) -> None:
    before, _ = report_on(target)
    control.settings(denied_permissions=[permissions.EXPORT.permission])
    problems, report = report_on(target)
    assert problems == before + 1
    assert "PROBLEM  DICOM store: Missing: healthcare.dicomStores.export." in report
    assert "gcloud healthcare dicom-stores add-iam-policy-binding" in report


def test_connection_that_airflow_does_not_have_is_a_problem() -> None:
    problems, report = report_on(Target(gcp_conn_id="nowhere"))
    assert problems >= 3
    assert "Airflow has no connection 'nowhere' on this machine." in report
    assert "AIRFLOW_CONN_NOWHERE" in report


def test_endpoint_that_does_not_answer_is_a_problem(anonymous: str) -> None:
    _, report = report_on(Target(gcp_conn_id=anonymous, api_endpoint=f"http://127.0.0.1:{free_port()}"))
    assert re.search(r"PROBLEM  answer: none \(ConnectionRefusedError .*refused", report), report


def test_store_that_nobody_names_is_not_checked(anonymous: str, healthcare: HealthcareEmulator) -> None:
    _, report = report_on(Target(gcp_conn_id=anonymous, api_endpoint=healthcare.url))
    assert "note     not checked: location=None, dataset_id=None, dicom_store_id=None:" in report
    assert "--dicom-store-id" in report


@pytest.mark.parametrize(
    "settings",
    [
        {"keyfile_dict": f'{{"private_key": "{SECRET}"'},
        {"keyfile_dict": json.dumps({"type": "service_account", "private_key": SECRET})},
        {"key_path": f"/{SECRET}.json"},
        {"key_secret_name": SECRET},
        {"credential_config_file": f'{{"token": "{SECRET}"'},
        {"api_endpoint": f"https://user:{SECRET}@healthcare.example"},
        {"num_retries": SECRET},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_report_shows_no_secret_of_a_broken_connection(settings: dict[str, Any], connect: Connect) -> None:
    problems, report = report_on(Target(gcp_conn_id=connect(**settings)))
    assert problems
    assert SECRET not in report


def test_report_shows_no_secret_of_a_connection_that_works(
    target: Target, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@127.0.0.1:{free_port()}")
    _, report = report_on(target)
    assert token_server.tokens, "the key was used"
    assert "PRIVATE KEY" not in report
    assert not any(token in report for token in token_server.tokens)
    _, report = report_on(Target(gcp_conn_id=target.gcp_conn_id))
    assert "proxy: 127.0.0.1" in report
    assert SECRET not in report


def test_report_shows_no_text_of_a_foreign_exception(
    anonymous: str, healthcare: HealthcareEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr("airflow.providers.google.common.hooks.base_google.GoogleBaseHook.__init__", broken)
    problems, report = report_on(Target(gcp_conn_id=anonymous, api_endpoint=healthcare.url))
    assert problems
    assert SECRET not in report


def test_command_prints_the_report_alone_and_its_status_tells_of_problems(
    healthcare: HealthcareEmulator, tmp_path: Path
) -> None:
    connection = {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": "p"}}
    env = os.environ | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(connection),
        "HEALTHCARE_EMULATOR_HOST": healthcare.url,
    }
    command = [sys.executable, "-m", "airflow_provider_dicom", "doctor"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(f"Versions\n  ok       airflow-provider-dicom: {__version__}\n"), (
        done.stderr
    )
    assert done.stdout.endswith("\nNo problem was found.\n")
    assert done.returncode == 0
    for line in done.stdout.splitlines():
        assert re.match(r"[A-Z][a-z]+$|  (ok|note) +\S|No problem", line), line
