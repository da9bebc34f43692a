"""The doctor's report: the findings of all checks, as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_dicom.api.foreign_text import without_userinfo
from airflow_provider_dicom.doctor.checks import CHECKS, Finding, Mark
from airflow_provider_dicom.exceptions import DicomExportError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from airflow_provider_dicom.doctor.checks import Check, Target


def write_report(output: TextIO, target: Target) -> int:
    """
    Run all checks, write a line for each finding as soon as it is known, and return the number of problems.

    :param output: the stream that gets the lines.
    :param target: what the checks look at.
    """
    problems = 0
    for title, check in CHECKS.items():
        output.write(f"{title}\n")
        for finding in _findings(check, target):
            problems += finding.mark is Mark.PROBLEM
            output.write(f"  {finding.mark.value:8} {finding.subject}: {without_userinfo(finding.text)}\n")
            output.flush()
    output.write("No problem was found.\n" if not problems else f"Problems: {problems}.\n")
    return problems


def _findings(check: Check, target: Target) -> Iterator[Finding]:
    try:
        yield from check(target)
    except DicomExportError as error:
        yield Finding(Mark.PROBLEM, "error", str(error))
    except Exception as error:  # Airflow, a secrets backend or a credential source may raise anything
        # Only the name of the class is shown: the message may quote a key.
        yield Finding(Mark.PROBLEM, "error", f"{type(error).__name__}; the message may hold a secret")
