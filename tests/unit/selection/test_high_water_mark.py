"""High-water marks: they advance only over instances that were exported."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Variable

from airflow_provider_dicom.exceptions import DicomExportError, DicomExportInvalidRequestError
from airflow_provider_dicom.operators.selection import DicomHighWaterMarkOperator
from airflow_provider_dicom.selection.high_water_mark import advance_mark, parse_time, read_mark

ONE, TWO, THREE = (f"2026-03-2{day}T02:00:00+00:00" for day in (1, 2, 3))


@pytest.mark.parametrize(
    ("mark", "since", "until", "expected"),
    [
        (None, None, ONE, ONE),
        (ONE, ONE, TWO, TWO),
        (TWO, ONE, TWO, TWO),
        (THREE, ONE, TWO, THREE),
        (TWO, ONE, THREE, THREE),
        (None, ONE, TWO, None),
        (ONE, TWO, THREE, None),
    ],
)
def test_high_water_mark_advances_only_over_exported_instances(
    mark: Any, since: Any, until: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {} if mark is None else {"mark": mark}
    monkeypatch.setattr(Variable, "get", lambda name, default: variables.get(name, default))
    monkeypatch.setattr(Variable, "set", variables.__setitem__)
    selection: Any = {"filter_uri": "gs://b/f", "count": 1, "since": since, "until": until}
    if expected is None:
        with pytest.raises(DicomExportError, match="moved back"):
            advance_mark("mark", selection)
        assert variables.get("mark") == mark
    else:
        assert advance_mark("mark", selection).isoformat() == expected == variables["mark"]
        assert read_mark("mark") is not None


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"create_time": TWO, "snapshot_time": ONE}, ONE),
        ({"create_time": TWO, "snapshot_time": None}, TWO),
        ({"create_time": TWO}, TWO),
    ],
)
def test_result_of_an_export_stands_for_its_snapshot_time(result: Any, expected: str) -> None:
    assert parse_time(result, "until").isoformat() == expected


def test_mapping_that_is_no_result_of_an_export_is_no_time() -> None:
    with pytest.raises(DicomExportInvalidRequestError, match="is not a time"):
        parse_time({"since": ONE}, "until")


def test_mark_that_the_environment_defines_does_not_move_and_the_task_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_MARK", ONE)
    database: dict[str, str] = {}
    monkeypatch.setattr(Variable, "set", database.__setitem__)
    selection: Any = {"filter_uri": "gs://b/f", "count": 1, "since": ONE, "until": TWO}
    with pytest.raises(DicomExportError, match="AIRFLOW_VAR_MARK, defines the Variable, too"):
        advance_mark("mark", selection)
    assert database == {"mark": TWO}


def test_error_about_a_variable_that_is_not_a_time_does_not_quote_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_MARK", "hunter2")
    with pytest.raises(DicomExportInvalidRequestError, match="Variable mark is not a time") as error:
        read_mark("mark")
    assert "hunter2" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        (None, "selection is NoneType"),
        ("gs://bucket/f.txt", "selection is str"),
        ([], "selection is list"),
        ({}, "selection has no since and no until"),
        ({"filter_uri": "gs://b/f", "count": 1, "since": None, "until": None}, "knows no time of arrival"),
        ({"since": None, "until": "yesterday"}, "until='yesterday' is not a time"),
        ({"since": "2026-03-29T02:00:00", "until": ONE}, "since='2026-03-29T02:00:00' is not a time"),
    ],
)
def test_what_is_no_selection_moves_no_mark(selection: Any, sentence: str) -> None:
    with pytest.raises(DicomExportInvalidRequestError, match=sentence):
        DicomHighWaterMarkOperator(task_id="mark", high_water_mark="mark", selection=selection)
    task = DicomHighWaterMarkOperator(task_id="mark", high_water_mark="mark", selection="{{ params.x }}")  # type: ignore[arg-type]
    task.selection = selection
    with pytest.raises(DicomExportInvalidRequestError, match=sentence):
        task.execute({})
