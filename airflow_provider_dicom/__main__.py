"""``python -m airflow_provider_dicom doctor``: tells what a bug report about an installation needs."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Print the report, and return the exit status: 1 if there is a problem.

    :param arguments: the command line; this process's if not given.
    """
    options = vars(_parser().parse_args(arguments))
    del options["command"]
    # The report goes to the terminal, whatever Airflow, and what it imports, print or log.
    report = sys.stdout
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # Airflow 3 reads connections from its database in such processes only; its own CLI sets the variable.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    with contextlib.redirect_stdout(sys.stderr):
        from airflow_provider_dicom.doctor.checks import Target
        from airflow_provider_dicom.doctor.report import write_report

        problems = write_report(report, Target(**options))
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_dicom")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser(
        "doctor",
        help="check this machine's installation, connection and roles",
        description=(
            "Checks versions, connection, endpoint, proxies, CAs, clocks and roles on the machine where it "
            "runs, and changes nothing. The report holds no secret: paste it into a bug report. Run it where "
            "the problem is, on a worker or on a triggerer."
        ),
    )
    doctor.add_argument(
        "--gcp-conn-id",
        default="google_cloud_default",
        metavar="ID",
        help="the Airflow connection (default: %(default)s)",
    )
    for name, text in (
        ("impersonation-chain", "a service account to impersonate, or several, separated by commas"),
        ("api-endpoint", "another endpoint than Google's"),
        ("project-id", "the project of the DICOM store (default: the connection's)"),
        ("location", "the location of the DICOM store (default: the connection's)"),
        ("dataset-id", "the dataset of the DICOM store (default: the connection's)"),
        ("dicom-store-id", "the DICOM store (default: the connection's)"),
    ):
        doctor.add_argument(f"--{name}", metavar="VALUE", help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
