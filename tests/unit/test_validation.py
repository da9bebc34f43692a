"""Validation of parameters: each check returns a sentence, and all sentences make one error."""

from __future__ import annotations

import math
from typing import NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.validation import (
    is_template,
    max_failures_error,
    parse_errors,
    raise_if_invalid,
    seconds_error,
)


def test_all_validation_errors_are_in_one_exception() -> None:
    with pytest.raises(DicomExportInvalidRequestError) as error:
        raise_if_invalid(iter(["First sentence.", "Second sentence."]))
    assert str(error.value) == "First sentence. Second sentence."


def test_nothing_is_raised_without_validation_errors() -> None:
    raise_if_invalid([])


def refuse(value: object, *, unit: str) -> NoReturn:
    raise DicomExportInvalidRequestError(f"{value!r} is no {unit}.")


def test_value_that_a_parser_refuses_is_a_validation_error() -> None:
    assert list(parse_errors(refuse, 5, unit="name")) == ["5 is no name."]


def test_value_that_a_parser_accepts_is_no_validation_error() -> None:
    assert list(parse_errors(int, "ff", base=16)) == []


def test_programming_error_of_a_parser_is_raised() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(parse_errors(int, "x"))


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False) | st.integers(1))
@example(0.5)
@example(1)
def test_seconds_are_numbers_above_zero(value: float) -> None:
    assert seconds_error("poll_interval", value) is None


@given(
    st.floats(max_value=0)
    | st.integers(max_value=0)
    | st.sampled_from([math.nan, math.inf, True, None, "5", [1]])
)
@example(0)
@example(True)
@example(math.inf)
def test_other_values_of_seconds_are_refused(value: object) -> None:
    assert seconds_error("poll_interval", value) == (
        f"poll_interval={value!r} is not accepted; accepted: a number of seconds above 0."
    )


@given(st.integers(0))
@example(0)
def test_max_failures_may_be_a_count(value: int) -> None:
    assert max_failures_error(value) is None


@given(st.floats(0, 1))
@example(0.0)
@example(1.0)
def test_max_failures_may_be_a_share(value: float) -> None:
    assert max_failures_error(value) is None


@given(
    st.integers(max_value=-1)
    | st.floats(max_value=0, exclude_max=True)
    | st.floats(min_value=1, exclude_min=True)
    | st.sampled_from([math.nan, True, False, None, "0", "5%", [], 1 + 0j])
)
@example(-1)
@example(1.5)
def test_other_values_of_max_failures_are_refused(value: object) -> None:
    assert max_failures_error(value) == (
        f"max_failures={value!r} is not accepted; accepted: a count from 0 (int), "
        "or a share from 0.0 to 1.0 of all instances (float)."
    )


class Resolvable:
    """Stands for another task's output, which Airflow resolves."""

    def resolve(self) -> None:
        """Do nothing; only the name counts."""

    def __repr__(self) -> str:
        return "Resolvable()"  # without the address: all workers of a run must give a test the same name


@pytest.mark.parametrize(
    "value",
    [
        "{{ x }}",
        "a{% if x %}b{% endif %}",
        "{# note #}",
        ["a", "{{ x }}"],
        ("{{ x }}",),
        [["{{ x }}"]],
        Resolvable(),
        [Resolvable()],
    ],
    ids=repr,
)
def test_templates_and_outputs_of_tasks_are_templates(value: object) -> None:
    assert is_template(value) is True


@pytest.mark.parametrize("value", ["a", "{a}", "", None, 5, [], ["a"], ("a",), {"a": "b"}], ids=repr)
def test_plain_values_are_no_templates(value: object) -> None:
    assert is_template(value) is False
