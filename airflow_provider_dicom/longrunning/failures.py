"""
Why instances of an export failed: their entries in Cloud Logging, waited for and grouped by cause.

Invariants:

- Nothing is decided by the entries: they arrive late, and Google limits their number. The counters of the
  Operation say how many instances failed.
- Entries are read again after growing pauses, until as many instances are known as failed, or
  ``MAX_INSTANCES``, or the time is over. Cloud Logging permits 60 reads in a minute to a whole project: a
  read has a few pages, and there are about seven reads in 30 seconds.
- ``MAX_CONSECUTIVE_ERRORS`` transient errors in a row, or any other error, end the wait. What was read before
  is still returned.
- Memory does not grow with the number of entries: of an instance beyond ``MAX_INSTANCES`` nothing is kept.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

from airflow_provider_dicom.exceptions import DicomExportError, DicomExportTransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_provider_dicom.api.log_entries import FailedInstance
    from airflow_provider_dicom.results import DicomExportCause, DicomExportFailures

#: How long entries are waited for, in seconds.
WAIT_SECONDS = 30.0
#: The pause before the second read, in seconds, and the longest pause; pauses double.
PAUSE_INITIAL = 1.0
PAUSE_MAX = 8.0
MAX_CONSECUTIVE_ERRORS = 3
#: The largest number of instances that are looked at, of which the first are listed.
MAX_INSTANCES = 5_000
MAX_LISTED = 100
#: The largest number of causes, of which messages name the first, and of resource paths of each.
MAX_CAUSES = 10
CAUSES_IN_MESSAGES = 3
PATHS_OF_A_CAUSE = 3


def wait_for_failures(
    read: Callable[[], Iterable[FailedInstance]],
    failure: int,
    *,
    seconds: float = WAIT_SECONDS,
    sleep: Callable[[float], object] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> DicomExportFailures:
    """
    Read the failed instances of an export until all are known, or the time is over.

    :param read: reads the entries that are there.
    :param failure: the number of instances that failed.
    :param seconds: the time.
    :param sleep: waits for a number of seconds between two reads; it may raise an error to end the wait.
    :param now: returns the time in seconds, from any origin.
    :raises DicomExportError: if nothing can be read.
    """
    end = now() + seconds
    pause = PAUSE_INITIAL
    found: DicomExportFailures | None = None
    errors = 0
    while True:
        try:
            found = group_by_cause(read(), failure)
            errors = 0
        except DicomExportError as error:
            errors += 1
            if not isinstance(error, DicomExportTransientError) or errors >= MAX_CONSECUTIVE_ERRORS:
                if found is None:
                    raise
                return found
        left = end - now()
        if found is not None and (left <= 0 or found["known"] >= min(failure, MAX_INSTANCES)):
            return found
        sleep(max(min(pause, left), 0.0))
        pause = min(2 * pause, PAUSE_MAX)


def group_by_cause(instances: Iterable[FailedInstance], failure: int) -> DicomExportFailures:
    """
    Group failed instances by their causes, the most frequent first.

    :param instances: the instances; of several entries about one instance the first counts.
    :param failure: the number of instances that failed.
    """
    known: set[str] = set()
    without_path = 0
    causes: dict[tuple[int | None, str], DicomExportCause] = {}
    result: DicomExportFailures = {
        "failure": failure,
        "known": 0,
        "causes": [],
        "more_causes": 0,
        "failures": [],
    }
    for one in islice(instances, MAX_INSTANCES):
        path = one.resource_path
        if path in known:
            continue
        if path is None:
            without_path += 1
        else:
            known.add(path)
        cause = causes.setdefault(
            (one.code, one.cause),
            {"code": one.code, "message": one.cause, "count": 0, "resource_paths": []},
        )
        cause["count"] += 1
        if path is not None and len(cause["resource_paths"]) < PATHS_OF_A_CAUSE:
            cause["resource_paths"].append(path)
        if len(result["failures"]) < MAX_LISTED:
            result["failures"].append({"resource_path": path, "code": one.code, "message": one.message})
    result["known"] = len(known) + without_path
    ordered = sorted(causes.values(), key=lambda cause: -cause["count"])
    result["causes"], result["more_causes"] = ordered[:MAX_CAUSES], len(ordered[MAX_CAUSES:])
    return result


def describe_cause(cause: DicomExportCause) -> str:
    """
    Describe a cause with its first resource paths.

    :param cause: the cause.
    """
    code = "" if cause["code"] is None else f" (code {cause['code']})"
    text = f"{cause['count']} x {cause['message']}{code}"
    if not cause["resource_paths"]:
        return text
    more = cause["count"] - len(cause["resource_paths"])
    return f"{text}: {', '.join(cause['resource_paths'])}" + (f", and {more} more" if more else "")


def describe_known(failures: DicomExportFailures) -> str:
    """
    Say of how many of the failed instances the causes are known.

    :param failures: the failed instances.
    """
    known = f"Cloud Logging lists {failures['known']} of the {failures['failure']} failed instances"
    if failures["known"] >= failures["failure"]:
        return known
    return f"{known}; entries arrive late, and are limited in number"


def describe_causes(failures: DicomExportFailures) -> str:
    """
    Describe the most frequent causes in one sentence, for the message of an error.

    :param failures: the failed instances.
    """
    causes = [f"{cause['count']} x {cause['message']}" for cause in failures["causes"]]
    more = failures["more_causes"] + len(causes[CAUSES_IN_MESSAGES:])
    text = "; ".join(causes[:CAUSES_IN_MESSAGES]) + (f"; further causes: {more}" if more else "")
    return f"{describe_known(failures)}: {text}." if text else f"{describe_known(failures)}."
