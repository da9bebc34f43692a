"""Types of what tasks return, for the code of DAGs, and the keys of the XComs that tasks write."""

from __future__ import annotations

from typing import Literal, TypedDict

#: The XCom with the Operation's full name, written as soon as the export is submitted. Later tries, and the
#: extra links, read it: the key must never be renamed.
OPERATION_NAME_KEY = "operation_name"
#: The XCom with the latest progress record, which the tab "DICOM export" reads.
PROGRESS_KEY = "progress"
#: The XCom with the first 100 instances that failed, each a :class:`DicomExportFailure`.
FAILURES_KEY = "failures"

#: The XCom with the filter file of what a check found missing, which an export takes as its ``filter_uri``.
MISSING_URI_KEY = "missing_uri"


class DicomExportResult(TypedDict):
    """
    The result of a finished export: return value and XCom, the same in every mode.

    ``snapshot_time`` is the time up to which everything stored is certainly in the output: the
    ``create_time``, or an earlier time if the reply to a submission was lost, which may have written last.
    """

    operation_name: str
    dicom_store: str | None
    destination: str | None
    state: Literal["SUCCEEDED", "PARTIAL"]
    success: int
    failure: int
    pending: int
    create_time: str | None
    end_time: str | None
    logs_url: str
    snapshot_time: str | None


class DicomSelection(TypedDict):
    """
    The result of a selection: a filter file for an export.

    ``dicom_store`` is the full name of the DICOM store that was searched, to which the filter file belongs;
    None where a table was queried. It tells the results of mapped tasks apart: a task that was skipped has no
    result, and the positions of the others move. ``filter_uris`` lists the filter files of the selection.

    ``since`` and ``until`` are RFC 3339 times: the selection holds the instances that arrived after ``since``
    and not after ``until``. Both are None where the query knows no time of arrival.
    """

    dicom_store: str | None
    filter_uri: str
    filter_uris: list[str]
    count: int
    since: str | None
    until: str | None


class DicomExportFailure(TypedDict):
    """
    An instance that an export could not write, as Cloud Logging names it.

    ``resource_path`` is None if the entry names no instance; ``code`` is the number of a ``google.rpc.Code``.
    """

    resource_path: str | None
    code: int | None
    message: str


class DicomExportCause(TypedDict):
    """
    A cause of failed instances: ``count`` of them are known to have it, of which ``resource_paths`` lists the
    first few.

    In the ``message``, "..." stands for what differs from instance to instance.
    """

    code: int | None
    message: str
    count: int
    resource_paths: list[str]


class DicomExportFailures(TypedDict):
    """
    What Cloud Logging tells of the instances that an export could not write.

    ``failure`` instances failed, and ``known`` of them are listed in Cloud Logging, where entries arrive late
    and are limited in number. ``causes`` has the most frequent causes first; ``more_causes`` counts the
    others. ``failures`` lists the first 100 instances.
    """

    failure: int
    known: int
    causes: list[DicomExportCause]
    more_causes: int
    failures: list[DicomExportFailure]


class DicomExportCheckResult(TypedDict):
    """
    The result of a check of an export's destination, in instances.

    ``arrived`` counts all instances at the destination, expected or not, also those with some of their frames
    only; ``missing_paths`` lists the first few of the ``missing`` instances. ``missing_uri`` is the filter
    file that lists all of them; None if none is missing, or if the check was given no ``missing_uri``.
    """

    destination: str
    expected: int
    arrived: int
    missing: int
    missing_paths: list[str]
    missing_uri: str | None
