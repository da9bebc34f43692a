"""The doctor's findings that need no server: clocks, versions, the environment."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from airflow_provider_dicom import __version__
from airflow_provider_dicom.doctor import checks
from airflow_provider_dicom.doctor.checks import Mark, Target, check_environment, check_versions

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("behind", "mark", "words"),
    [
        (0, Mark.OK, "agrees"),
        (59, Mark.OK, "agrees"),
        (-59, Mark.OK, "agrees"),
        (90, Mark.PROBLEM, "differs by 89 s"),
        (-90, Mark.PROBLEM, "differs by 88 s"),
    ],
)
def test_clock_is_compared_with_the_endpoints(behind: float, mark: Mark, words: str) -> None:
    # The answer took two seconds.
    finding = checks._clock(formatdate(NOW - behind, usegmt=True), NOW, NOW + 2)
    assert finding.mark is mark
    assert words in finding.text


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_answer_without_a_date_is_no_problem(date: str | None) -> None:
    assert checks._clock(date, NOW, NOW).mark is Mark.NOTE


def test_another_copy_of_the_provider_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "version", lambda name: "0.0.1" if name == checks.DISTRIBUTION else "1")
    finding, *_ = check_versions(Target())
    assert finding.mark is Mark.PROBLEM
    assert __version__ in finding.text
    assert "0.0.1" in finding.text


def test_secret_parts_of_the_environment_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:s3cret@proxy:3128")
    monkeypatch.setenv("all_proxy", "http://user:s3cret@proxy:3128")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/s3cret.json")
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", "user:s3cret@127.0.0.1:1")
    found = {finding.subject: finding.text for finding in check_environment(Target())}
    assert "s3cret" not in repr(found)
    assert found["HTTPS_PROXY"] == found["ALL_PROXY"] == "set"
    assert found["HEALTHCARE_EMULATOR_HOST"] == "...@127.0.0.1:1"


def test_local_healthcare_api_beside_googles_cloud_storage_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", "127.0.0.1:8085")
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    assert "go to Google's Cloud Storage" in repr(list(check_environment(Target())))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9023")
    assert "go to Google's Cloud Storage" not in repr(list(check_environment(Target())))
