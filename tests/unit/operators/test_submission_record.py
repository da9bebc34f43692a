"""Decisions about submissions of earlier tries: by the record, the Operation and the dataset's list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api.resource_names import DicomStoreName
from airflow_provider_dicom.operators._submission_record import (
    MAX_RECORDS,
    SubmissionRecord,
    SubmissionRecords,
    Verdict,
    assess_operation,
    assess_record,
    earliest_snapshot,
    is_operation_within,
    is_repeatable,
    is_same_request,
    pruned,
    record_key,
    state_of,
    unknown_time,
    unknown_time_of,
    wrote_nothing,
)
from airflow_provider_dicom.operators._submission_types import Submission
from rig.contract import RESULT_KEYS
from tests.support.submitting_task import DATASET, STATE_KEY, STORE, SubmittingTask
from tests.support.task_runs import TaskStateStore


def record(**changes: Any) -> SubmissionRecord:
    base: Any = {
        "dicom_store": str(STORE),
        "request": {"gcsDestination": {"uriPrefix": "gs://exports"}},
        "filter_digest": None,
        "submitted_at": "2026-03-29T02:00:00+00:00",
        "operation_name": f"{DATASET}/operations/1",
    }
    return cast("SubmissionRecord", base | changes)


OTHER_REQUESTS: list[dict[str, Any]] = [
    {"dicom_store": str(DicomStoreName(DATASET, "other"))},
    {"request": {"gcsDestination": {"uriPrefix": "gs://other"}}},
    {"filter_digest": "other"},
]


@pytest.mark.parametrize("changes", OTHER_REQUESTS, ids=lambda changes: next(iter(changes)))
def test_requests_differ_by_store_body_and_filter(changes: dict[str, Any]) -> None:
    assert is_same_request(record(), record(**changes)) is False
    assert is_same_request(record(**changes), record()) is False


def test_requests_do_not_differ_by_time_and_operation() -> None:
    assert is_same_request(record(), record(submitted_at="2027-01-01T00:00:00+00:00", operation_name=None))


def test_record_of_an_older_version_without_a_filter_digest_is_of_an_unfiltered_request() -> None:
    older = record()
    del older["filter_digest"]  # type: ignore[misc]
    assert is_same_request(older, record()) is True
    assert is_same_request(older, record(filter_digest="digest")) is False


@pytest.mark.parametrize("digests", [(None, "digest"), ("digest", None), (None, None)])
def test_filter_file_that_could_not_be_read_is_not_known_to_differ(digests: tuple[str | None, ...]) -> None:
    request = {"filterConfig": {"resourcePathsGcsUri": "gs://b/f.txt"}}
    earlier, later = (record(request=request, filter_digest=digest) for digest in digests)
    assert is_same_request(earlier, later) is True


def test_filter_files_of_different_content_differ() -> None:
    request = {"filterConfig": {"resourcePathsGcsUri": "gs://b/f.txt"}}
    earlier, later = (record(request=request, filter_digest=digest) for digest in ("one", "other"))
    assert is_same_request(earlier, later) is False


APPEND = {"bigqueryDestination": {"tableUri": "bq://p.d.t", "writeDisposition": "WRITE_APPEND"}}
RESULT = {"operation_name": f"{DATASET}/operations/1"}
DELIVERED: dict[str, Any] = {"state": "delivered", "result": RESULT}
NAME_DELIVERED: dict[str, Any] = {"state": "delivered", "result": f"{DATASET}/operations/1"}
INTENT: dict[str, Any] = {"state": "intent", "operation_name": None}
OTHER: dict[str, Any] = {"filter_digest": "other"}
UNKNOWN = {"unknown_since": "2026-03-29T02:00:00+00:00", "unknown_until": "2026-03-29T02:01:00+00:00"}
NOT_ACCEPTED: dict[str, Any] = {"state": "not_accepted", "operation_name": None}


@pytest.mark.parametrize(
    ("changes", "append", "empty", "overwrites"),
    [
        # the record of the earlier try; the verdict for: append, needs an empty table, overwrite
        (None, Verdict.SUBMIT, Verdict.SUBMIT, Verdict.SUBMIT),
        (NOT_ACCEPTED, Verdict.SUBMIT, Verdict.SUBMIT, Verdict.SUBMIT),
        (NOT_ACCEPTED | OTHER, Verdict.SUBMIT, Verdict.SUBMIT, Verdict.SUBMIT),
        (NOT_ACCEPTED | UNKNOWN, Verdict.UNCERTAIN, Verdict.UNCERTAIN, Verdict.UNCERTAIN),
        (INTENT, Verdict.UNCERTAIN, Verdict.UNCERTAIN, Verdict.UNCERTAIN),
        (INTENT | OTHER, Verdict.UNCERTAIN, Verdict.UNCERTAIN, Verdict.UNCERTAIN),
        ({}, Verdict.LOOK_UP, Verdict.LOOK_UP, Verdict.LOOK_UP),
        (OTHER, Verdict.UNCERTAIN, Verdict.REPLACE, Verdict.REPLACE),
        (DELIVERED, Verdict.RETURN, Verdict.RETURN, Verdict.SUBMIT),
        (DELIVERED | OTHER, Verdict.UNCERTAIN, Verdict.SUBMIT, Verdict.SUBMIT),
        (NAME_DELIVERED, Verdict.LOOK_UP, Verdict.LOOK_UP, Verdict.LOOK_UP),
        (NAME_DELIVERED | OTHER, Verdict.UNCERTAIN, Verdict.REPLACE, Verdict.REPLACE),
    ],
)
def test_verdict_by_the_record_of_an_earlier_try(
    changes: dict[str, Any] | None, append: Verdict, empty: Verdict, overwrites: Verdict
) -> None:
    earlier = None if changes is None else record(**changes)

    def verdict(*, repeatable: bool, overwrites: bool) -> Verdict:
        expected = record(repeatable=repeatable)
        return assess_record(earlier, expected, overwrites=overwrites, may_be_forgotten=None).verdict

    assert verdict(repeatable=False, overwrites=False) is append
    assert verdict(repeatable=True, overwrites=False) is empty
    assert verdict(repeatable=True, overwrites=True) is overwrites


def test_missing_record_of_a_later_try_is_uncertain() -> None:
    assessment = assess_record(None, record(), overwrites=True, may_be_forgotten="Airflow forgets")
    assert assessment == (Verdict.UNCERTAIN, "Airflow forgets")


def test_reason_against_an_intent_names_its_time() -> None:
    intent = assess_record(record(**INTENT), record(), overwrites=True, may_be_forgotten=None)
    assert intent.reason == (
        "An earlier try began its submission at 2026-03-29T02:00:00+00:00 and ended before it could record "
        "the operation"
    )


@pytest.mark.parametrize(
    ("changes", "operation"), [(OTHER, f"{DATASET}/operations/1"), (OTHER | INTENT, "not known")]
)
def test_reason_against_another_request_names_its_time_and_operation(
    changes: dict[str, Any], operation: str
) -> None:
    expected = record(repeatable=False)
    assessment = assess_record(record(**changes), expected, overwrites=False, may_be_forgotten=None)
    assert assessment.reason == (
        "An earlier try submitted another request for the same destination at 2026-03-29T02:00:00+00:00 "
        f"(operation {operation})"
    )


@pytest.mark.parametrize(
    ("changes", "state"), [({}, "submitted"), ({"operation_name": None}, "intent"), (DELIVERED, "delivered")]
)
def test_state_of_a_record_and_of_the_first_version(changes: dict[str, Any], state: str) -> None:
    assert state_of(record(**changes)) == state


def test_record_of_the_first_version_is_repeatable_unless_it_appends() -> None:
    assert is_repeatable(record()) is True
    assert is_repeatable(record(request=APPEND)) is False


def test_only_a_refusal_without_a_lost_reply_proves_that_nothing_was_written() -> None:
    assert wrote_nothing(record(**NOT_ACCEPTED)) is True
    for changes in (NOT_ACCEPTED | UNKNOWN, INTENT, {}, DELIVERED):
        assert wrote_nothing(record(**changes)) is False


def test_single_record_of_the_first_version_is_found_by_store_and_destination() -> None:
    state = TaskStateStore()
    first = record(request=APPEND)
    state.set(STATE_KEY, first)
    key = record_key(str(STORE), "bq://p.d.t")
    assert SubmissionRecords(state, STATE_KEY).read() == {key: first}


@pytest.mark.parametrize(("changes", "is_readable"), [({}, True), ({"request": APPEND}, False)])
def test_only_repeatable_records_are_readable_for_workers_of_0_1_0(
    changes: dict[str, Any], is_readable: bool
) -> None:
    state = TaskStateStore()
    records = SubmissionRecords(state, STATE_KEY)
    one = record(**changes)
    key = record_key(one["dicom_store"], "bq://p.d.t" if changes else "gs://exports")
    records.write(key, one)
    # These workers read the names of a record's fields at the top.
    assert (state.get(STATE_KEY).keys() >= {"dicom_store", "request", "operation_name"}) is is_readable
    assert records.read() == {key: one}
    records.write("store gs://other", record(**changes))
    assert set(state.get(STATE_KEY)) == {key, "store gs://other"}


def test_key_of_a_record_is_the_one_that_running_deployments_have_stored() -> None:
    assert record_key("store", "gs://b/X/") == "store gs://b/X"
    assert record_key("store", None) == "store "


def test_trailing_slash_of_a_prefix_names_no_other_destination() -> None:
    assert record_key("store", "gs://b/p/") == record_key("store", "gs://b/p")
    assert record_key("store", "gs://b/p") != record_key("store", "gs://b/pp")


def test_old_records_are_dropped_only_if_they_are_over() -> None:
    needed: dict[str, Any] = {
        "intent": record(**INTENT),
        "submitted": record(),
        "name": record(**NAME_DELIVERED),
        "unknown": record(**(NOT_ACCEPTED | UNKNOWN)),
        "appended": record(request=APPEND, **DELIVERED),
    }
    over = {
        f"over{number}": record(submitted_at=f"2026-04-{number % 28 + 1:02}T02:00:00+00:00", **changes)
        for number in range(MAX_RECORDS)
        for changes in [DELIVERED if number % 2 else NOT_ACCEPTED]
    }
    kept = pruned(needed | over)
    assert len(kept) == MAX_RECORDS
    assert set(needed) <= set(kept)
    newest = sorted(over, key=lambda key: over[key]["submitted_at"])[len(needed) :]
    assert set(kept) - set(needed) == set(newest)
    many = {str(number): record() for number in range(2 * MAX_RECORDS)}
    assert pruned(many) == many


def test_full_records_fit_into_the_task_state() -> None:
    result = dict.fromkeys(RESULT_KEYS, "x" * 150)
    state = TaskStateStore()
    records = SubmissionRecords(state, STATE_KEY)
    for number in range(2 * MAX_RECORDS):
        name = f"{STORE}-{number}"
        full: Any = record(dicom_store=name, request={"gcsDestination": {"uriPrefix": "gs://b/" + "p" * 60}})
        records.write(record_key(name, "gs://b/" + "p" * 60), full | {"state": "delivered", "result": result})
    assert len(state.values[STATE_KEY]) < 64 * 1024 * 2


def test_only_the_record_of_the_delivered_operation_changes() -> None:
    state = TaskStateStore()
    records = SubmissionRecords(state, STATE_KEY)
    records.write("a", record())
    records.write("b", record(operation_name="other"))
    records.deliver("other", "other")
    kept = records.read()
    assert kept is not None
    assert (state_of(kept["a"]), state_of(kept["b"]), kept["b"].get("result")) == (
        "submitted",
        "delivered",
        "other",
    )


def test_opened_records_are_empty_unless_there_are_some() -> None:
    records = SubmissionRecords(TaskStateStore(), STATE_KEY)
    records.open()
    assert records.read() == {}
    records.write("a", record())
    records.open()
    assert records.read() == {"a": record()}


def test_records_without_task_state_are_not_kept() -> None:
    records = SubmissionRecords(None, STATE_KEY)
    records.open()
    records.write("a", record())
    records.deliver(f"{DATASET}/operations/1", "result")
    assert records.are_kept is False
    assert records.read() is None
    assert records.only_operation() is None


def test_only_operation_is_known_unless_there_is_none_or_another() -> None:
    records = SubmissionRecords(TaskStateStore(), STATE_KEY)
    records.write("delivered", record(**DELIVERED))
    records.write("intent", record(**INTENT))
    assert records.only_operation() is None
    records.write("a", record())
    assert records.only_operation() == f"{DATASET}/operations/1"
    records.write("b", record(operation_name=f"{DATASET}/operations/2"))
    assert records.only_operation() is None


def test_operation_without_an_error_is_reattached() -> None:
    assert assess_operation({"name": "x"}, None) == (Verdict.REATTACH, "")
    assert assess_operation({"name": "x", "done": True}, None) == (Verdict.REATTACH, "")


def test_operation_that_is_gone_is_uncertain() -> None:
    assessment = assess_operation(None, exceptions.DicomExportNotFoundError("404"))
    assert assessment == (
        Verdict.UNCERTAIN,
        "The operation of an earlier try does not exist any more: 404",
    )


def test_operation_that_failed_is_uncertain() -> None:
    assessment = assess_operation({"name": "x"}, exceptions.DicomExportOperationFailedError("code 13"))
    assert assessment == (Verdict.UNCERTAIN, "The operation of an earlier try failed: code 13")


def test_delivered_operation_is_exported_again_only_when_it_is_done() -> None:
    assert assess_operation({"name": "x"}, None, export_again=True).verdict is Verdict.REATTACH
    assert assess_operation({"name": "x", "done": True}, None, export_again=True).verdict is Verdict.SUBMIT


EXPORT = "x.ExportDicomData"


@pytest.mark.parametrize(
    ("metadata", "matches"),
    [
        ({"createTime": "2026-03-29T02:00:00Z", "apiMethodName": EXPORT}, True),
        ({"createTime": "2026-03-29T02:00:00Z"}, True),
        ({"createTime": "2026-03-29T01:55:00Z", "apiMethodName": EXPORT}, True),
        ({"createTime": "2026-03-29T01:54:59Z", "apiMethodName": EXPORT}, False),
        ({"createTime": "2026-03-29T02:06:00Z", "apiMethodName": EXPORT}, True),
        ({"createTime": "2026-03-29T02:06:01Z", "apiMethodName": EXPORT}, False),
        ({"createTime": "2026-03-29T02:00:00Z", "apiMethodName": "x.ImportDicomData"}, False),
        ({"apiMethodName": EXPORT}, False),
        ({}, True),
    ],
)
def test_operations_within_the_time_of_a_lost_submission(metadata: Any, matches: bool) -> None:
    operation: Any = {"name": "x", "metadata": metadata}
    assert is_operation_within(operation, cast("Any", UNKNOWN), "ExportDicomData") is matches
    endless: Any = {**UNKNOWN, "unknown_until": None}
    assert is_operation_within(operation, endless, "ExportDicomData") is False


def test_time_of_lost_submissions_spans_all_of_them() -> None:
    other: Any = {
        "unknown_since": "2026-03-29T01:00:00+00:00",
        "unknown_until": "2026-03-29T01:01:00+00:00",
    }
    assert unknown_time(cast("Any", UNKNOWN), None, other) == {
        "unknown_since": other["unknown_since"],
        "unknown_until": UNKNOWN["unknown_until"],
    }
    assert unknown_time(None) == unknown_time_of(None) == unknown_time_of(record())
    assert unknown_time_of(record(**UNKNOWN)) == UNKNOWN


def test_intent_is_unknown_from_its_submission_until_a_later_try_finds_it() -> None:
    before = datetime.now(UTC)
    unknown = unknown_time_of(record(**INTENT))
    assert unknown["unknown_since"] == "2026-03-29T02:00:00+00:00"
    assert unknown["unknown_until"] is not None
    assert before <= datetime.fromisoformat(unknown["unknown_until"]) <= datetime.now(UTC)


def test_intent_that_a_later_try_has_found_keeps_its_time() -> None:
    later = {"submitted_at": "2026-03-29T02:00:30+00:00"}
    assert unknown_time_of(record(**INTENT, **UNKNOWN, **later)) == UNKNOWN


def test_snapshot_of_a_lost_submission_allows_for_a_clock_that_is_late() -> None:
    assert earliest_snapshot(cast("Any", UNKNOWN)) == "2026-03-29T01:55:00+00:00"
    assert earliest_snapshot(unknown_time()) is None


def test_submission_is_repeatable_unless_it_has_a_duplicate_risk() -> None:
    assert SubmittingTask().submission.repeatable is True
    assert SubmittingTask(append=True).submission.repeatable is False


def test_submission_needs_no_preparation_by_default() -> None:
    task = SubmittingTask()
    plain = Submission(
        request=task.submission.request,
        send=task.api.submit,
        state_key=STATE_KEY,
        api_method="ExportDicomData",
        duplicate_risk=None,
    )
    plain.prepare()
    assert plain.filter_digest is None
