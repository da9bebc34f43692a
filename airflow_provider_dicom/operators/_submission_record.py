"""
What a task remembers of its submissions, and what follows from it for a later try.

The records of a task lie under one key of its task state, each under what was exported to where: the DICOM
store and the destination. A record of another store or destination is never looked at. States of a record::

    intent ------> submitted ------> delivered
       `---------> not_accepted

- ``intent`` is written before the request is sent: the API may have accepted it.
- ``not_accepted``: the API certainly did not accept the request, so that it wrote nothing.
- ``submitted``: the Operation's name is known, its result is not delivered yet.
- ``delivered``: the task ended with the result, or with the Operation's name if it does not wait.

A submission whose reply was lost may run on beside a later one: ``unknown_since`` and ``unknown_until`` keep
the time in which the API may have accepted it. A value without any record says that no try of the task has
submitted anything; no value at all says nothing, because Airflow forgets (``clear_on_success``, clean-up,
retention).

A record that is the task's only one, and repeatable, lies under the task state's key itself, as version 0.1.0
wrote it: during an upgrade, workers of 0.1.0 re-attach by it. All other records are not readable for them on
purpose: they fail with a ``KeyError`` before they submit, where 0.1.0 would append rows twice.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, NamedTuple, NotRequired, Protocol, TypedDict, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.exceptions import DicomExportError
    from airflow_provider_dicom.results import DicomExportResult

#: The API keeps Operations for about as long after their end.
RETENTION = timedelta(days=30)
#: Airflow's ``NEVER_EXPIRE``, which it compares by identity. Rows that were appended do not expire, either.
NEVER_EXPIRE = timedelta.max
#: The largest difference between the clocks of a worker and of the API.
CLOCK_SKEW = timedelta(minutes=5)
#: The number of records that a task keeps; records that are still needed are kept beyond it.
MAX_RECORDS = 40


class State(StrEnum):
    """The state of a record; running deployments have stored these words."""

    INTENT = "intent"
    NOT_ACCEPTED = "not_accepted"
    SUBMITTED = "submitted"
    DELIVERED = "delivered"


class SubmissionRecord(TypedDict):
    """
    The record of a submission in the task state.

    Records of version 0.1.0 have no ``state``: without an Operation's name they are intents.
    """

    dicom_store: str
    request: dict[str, object]
    filter_digest: str | None
    submitted_at: str
    operation_name: str | None
    state: NotRequired[str]
    repeatable: NotRequired[bool]
    result: NotRequired[DicomExportResult | str]
    unknown_since: NotRequired[str | None]
    unknown_until: NotRequired[str | None]


class Unknown(TypedDict):
    """The time in which the API may have accepted submissions whose reply was lost, as RFC 3339 strings."""

    unknown_since: str | None
    unknown_until: str | None


class TaskStateStore(Protocol):
    """The part of Airflow's ``task_state_store`` (3.3+) that is used here."""

    def get(self, key: str, default: object = None) -> object:
        """Read a value."""

    def set(self, key: str, value: object, *, retention: timedelta | None = None) -> None:
        """Write a value."""


class SubmissionRecords:
    """
    The records of a task.

    :param store: Airflow's store; None if Airflow keeps no task state, or the task does not use it.
    :param state_key: the key of the task state. Running deployments have stored it: it must never be renamed.
    """

    def __init__(self, store: TaskStateStore | None, state_key: str) -> None:
        self._store = store
        self._state_key = state_key

    @property
    def are_kept(self) -> bool:
        """Whether Airflow keeps records."""
        return self._store is not None

    def read(self) -> dict[str, SubmissionRecord] | None:
        """Return all records; None if Airflow knows nothing about the task, or does not say."""
        value = None if self._store is None else self._store.get(self._state_key)
        if not isinstance(value, dict):
            return None
        if "operation_name" in value:  # a single record, or one of version 0.1.0
            record = cast("SubmissionRecord", value)
            return {_key_of(record): record}
        return cast("dict[str, SubmissionRecord]", value)

    def open(self) -> None:
        """Note that no try has submitted anything, unless there is a value."""
        if self._store is not None and self.read() is None:
            self._write({})

    def write(self, key: str, record: SubmissionRecord) -> None:
        """
        Write a record, and drop the oldest ones that are not needed any more.

        :param key: the record's key.
        :param record: the record.
        """
        if self._store is not None:
            self._write(pruned({**(self.read() or {}), key: record}))

    def deliver(self, operation_name: str, result: DicomExportResult | str) -> None:
        """
        Note that the task has ended with a result.

        :param operation_name: the full name of the result's Operation.
        :param result: the result.
        """
        for key, record in (self.read() or {}).items():
            if record["operation_name"] == operation_name:
                self.write(key, {**record, "state": State.DELIVERED.value, "result": result})

    def only_operation(self) -> str | None:
        """Return the name of the only Operation that is not delivered; None if there is none, or more."""
        records = (self.read() or {}).values()
        names = [record["operation_name"] for record in records if state_of(record) is State.SUBMITTED]
        return names[0] if len(names) == 1 else None

    def _write(self, records: dict[str, SubmissionRecord]) -> None:
        assert self._store is not None
        value: object = records
        if len(records) == 1:
            ((key, record),) = records.items()
            value = record if is_repeatable(record) and key == _key_of(record) else records
        expires = bool(records) and all(map(is_repeatable, records.values()))
        self._store.set(self._state_key, value, retention=RETENTION if expires else NEVER_EXPIRE)


class Verdict(Enum):
    """What a try does about the submissions of earlier tries."""

    SUBMIT = "nothing stands against a submission: submit"
    LOOK_UP = "an Operation is recorded: read it, then decide"
    REATTACH = "the recorded Operation serves this try"
    REPLACE = "the request has changed: cancel the recorded Operation, wait for its end, then submit"
    RETURN = "the result was delivered, and an export would not overwrite it: return it again"
    UNCERTAIN = "an earlier submission may have written data: submit if repeatable, else refuse"


class Assessment(NamedTuple):
    """A verdict, with the reason for an uncertain one as a sentence without its full stop."""

    verdict: Verdict
    reason: str = ""


def assess_record(
    record: SubmissionRecord | None,
    expected: SubmissionRecord,
    *,
    overwrites: bool,
    may_be_forgotten: str | None,
) -> Assessment:
    """
    Decide by the record of an earlier try.

    :param record: the record; None if there is none.
    :param expected: the record that this try would write.
    :param overwrites: the submission replaces what an earlier one wrote.
    :param may_be_forgotten: why a missing record is no proof that nothing was submitted; None if it is one.
    """
    if record is None:
        if may_be_forgotten is not None:
            return Assessment(Verdict.UNCERTAIN, may_be_forgotten)
        return Assessment(Verdict.SUBMIT)
    if wrote_nothing(record):
        return Assessment(Verdict.SUBMIT)
    is_same = is_same_request(record, expected)
    if not is_same and not is_repeatable(expected):
        return Assessment(
            Verdict.UNCERTAIN,
            f"An earlier try submitted another request for the same destination at {record['submitted_at']} "
            f"(operation {record['operation_name'] or 'not known'})",
        )
    if record["operation_name"] is None:
        return Assessment(
            Verdict.UNCERTAIN,
            f"An earlier try began its submission at {record['submitted_at']} and ended before it could "
            "record the operation",
        )
    # A task that does not wait has delivered the name of an Operation that may still run.
    if state_of(record) is State.DELIVERED and not isinstance(record.get("result"), str):
        return Assessment(Verdict.SUBMIT if overwrites or not is_same else Verdict.RETURN)
    return Assessment(Verdict.LOOK_UP if is_same else Verdict.REPLACE)


def assess_operation(
    operation: Operation | None, error: DicomExportError | None, *, export_again: bool = False
) -> Assessment:
    """
    Decide by the recorded Operation.

    :param operation: the Operation; None if the API does not know it any more.
    :param error: the error of the look-up, or of the finished Operation's outcome.
    :param export_again: the Operation was delivered, and a later export overwrites what it wrote.
    """
    if operation is None:
        return Assessment(
            Verdict.UNCERTAIN, f"The operation of an earlier try does not exist any more: {error}"
        )
    if error is not None:
        return Assessment(Verdict.UNCERTAIN, f"The operation of an earlier try failed: {error}")
    if export_again and operation.get("done"):
        return Assessment(Verdict.SUBMIT)
    return Assessment(Verdict.REATTACH)


def state_of(record: SubmissionRecord) -> State:
    """
    Return the state of a record.

    :param record: the record.
    """
    if state := record.get("state"):
        return State(state)
    return State.INTENT if record["operation_name"] is None else State.SUBMITTED


def wrote_nothing(record: SubmissionRecord) -> bool:
    """
    Tell whether the submission of a record, and all before it, certainly wrote nothing.

    :param record: the record.
    """
    return state_of(record) is State.NOT_ACCEPTED and record.get("unknown_since") is None


def is_repeatable(record: SubmissionRecord) -> bool:
    """
    Tell whether a second submission of a record leaves the same data as the first one alone.

    :param record: the record.
    """
    if "repeatable" in record:
        return record["repeatable"]
    table = cast("Mapping[str, str]", record["request"].get("bigqueryDestination", {}))
    return table.get("writeDisposition") != "WRITE_APPEND"


def is_same_request(record: SubmissionRecord, expected: SubmissionRecord) -> bool:
    """
    Tell whether two records are about the same request, with the same content of the filter file.

    A filter file that could not be read is not known to differ.

    :param record: the record of an earlier try.
    :param expected: the record that this try would write.
    """
    if (record["dicom_store"], record["request"]) != (expected["dicom_store"], expected["request"]):
        return False
    digests = {record.get("filter_digest"), expected["filter_digest"]}
    is_unknown = None in digests and "filterConfig" in expected["request"]
    return is_unknown or len(digests) == 1


def record_key(dicom_store: str, destination: str | None) -> str:
    """
    Return the key of a record.

    :param dicom_store: the full name of the DICOM store.
    :param destination: the URI of the destination; a trailing slash does not matter.
    """
    return f"{dicom_store} {(destination or '').rstrip('/')}"


def _key_of(record: SubmissionRecord) -> str:
    return record_key(record["dicom_store"], _destination(record["request"]))


def _destination(request: Mapping[str, object]) -> str | None:
    gcs = cast("Mapping[str, str]", request.get("gcsDestination", {}))
    table = cast("Mapping[str, str]", request.get("bigqueryDestination", {}))
    return gcs.get("uriPrefix") or table.get("tableUri")


def pruned(records: Mapping[str, SubmissionRecord]) -> dict[str, SubmissionRecord]:
    """
    Drop the oldest records that are not needed any more, if there are more than ``MAX_RECORDS``.

    :param records: the records.
    """
    by_age = sorted(records, key=lambda key: records[key]["submitted_at"])
    over = [key for key in by_age if _is_over(records[key])]
    dropped = set(over[: max(0, len(records) - MAX_RECORDS)])
    return {key: records[key] for key in by_age if key not in dropped}


def _is_over(record: SubmissionRecord) -> bool:
    # A result with its counters is that of a finished Operation; a name alone is not.
    is_delivered = state_of(record) is State.DELIVERED and not isinstance(record.get("result"), str)
    return wrote_nothing(record) or (is_delivered and is_repeatable(record))


def unknown_time(*sources: Unknown | None) -> Unknown:
    """
    Return the time in which the API may have accepted submissions that are not known.

    :param sources: such times, from records and from earlier steps of the same try.
    """
    known = [source for source in sources if source is not None]
    begins = [begin for source in known if (begin := source["unknown_since"])]
    ends = [end for source in known if (end := source["unknown_until"])]
    return {"unknown_since": min(begins, default=None), "unknown_until": max(ends, default=None)}


def unknown_time_of(record: SubmissionRecord | None) -> Unknown:
    """
    Return the time in which the API may have accepted submissions of a record that are not known.

    :param record: the record.
    """
    if record is None:
        return {"unknown_since": None, "unknown_until": None}
    since, until = record.get("unknown_since"), record.get("unknown_until")
    if state_of(record) is State.INTENT:
        since, until = since or record["submitted_at"], until or datetime.now(UTC).isoformat()
    return {"unknown_since": since, "unknown_until": until}


def is_operation_within(operation: Operation, unknown: Unknown, api_method: str) -> bool:
    """
    Tell whether an Operation may be that of a submission that is not known.

    :param operation: the Operation as the API returned it.
    :param unknown: the time in which the API may have accepted the submission; without an end, it is not
        known well enough.
    :param api_method: the suffix of the Operation's ``apiMethodName``; an Operation without that field
        matches.
    """
    since, until = unknown["unknown_since"], unknown["unknown_until"]
    metadata = operation.get("metadata", {})
    if since is None or until is None or not metadata.get("apiMethodName", api_method).endswith(api_method):
        return False
    try:
        created = datetime.fromisoformat(metadata["createTime"])
    except (KeyError, TypeError, ValueError):
        return not metadata  # an Operation that has just begun may be only a name
    begin, end = datetime.fromisoformat(since), datetime.fromisoformat(until)
    return begin - CLOCK_SKEW <= created <= end + CLOCK_SKEW


def earliest_snapshot(unknown: Unknown) -> str | None:
    """
    Return the earliest time, by the API's clock, at which a submission that is not known may have begun.

    :param unknown: the time by the worker's clock.
    """
    since = unknown["unknown_since"]
    return None if since is None else (datetime.fromisoformat(since) - CLOCK_SKEW).isoformat()
