"""How parameters are validated: each check returns sentences, and one place turns sentences into an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TEMPLATE_MARKS = ("{{", "{%", "{#")


def raise_if_invalid(errors: Iterable[str]) -> None:
    """
    Report all validation errors at once.

    :param errors: one sentence for each validation error.
    :raises DicomExportInvalidRequestError: if there is any.
    """
    if text := " ".join(errors):
        raise DicomExportInvalidRequestError(text)


def parse_errors(parse: Callable[..., object], *arguments: object, **options: object) -> Iterator[str]:
    """
    Yield the sentence with which a parser refuses a value; nothing if the parser accepts it.

    :param parse: the parser.
    :param arguments: the value, and the parser's other positional arguments.
    :param options: the parser's keyword arguments.
    """
    try:
        parse(*arguments, **options)
    except DicomExportInvalidRequestError as error:
        yield str(error)


def seconds_error(parameter: str, value: object) -> str | None:
    """
    Return the validation error of a number of seconds, or None.

    :param parameter: the parameter's name, for the sentence.
    :param value: the parameter's value.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 < value < float("inf"):  # type: ignore[operator]
        return None
    return f"{parameter}={value!r} is not accepted; accepted: a number of seconds above 0."


def max_failures_error(value: object) -> str | None:
    """
    Return the validation error of ``max_failures``, or None.

    :param value: the parameter's value.
    """
    accepted = "a count from 0 (int), or a share from 0.0 to 1.0 of all instances (float)"
    # A bool is an int to Python, but nobody who writes max_failures=True means one instance.
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    is_share = isinstance(value, float) and 0.0 <= value <= 1.0
    return None if is_count or is_share else f"max_failures={value!r} is not accepted; accepted: {accepted}."


def is_template(value: object) -> bool:
    """
    Tell whether a parameter gets its value only when the task runs.

    :param value: the parameter's value at parse time.
    """
    if isinstance(value, str):
        return any(mark in value for mark in _TEMPLATE_MARKS)
    if isinstance(value, list | tuple):
        return any(is_template(item) for item in value)
    if isinstance(value, dict):
        return any(is_template(item) for item in value.values())
    # Outputs of other tasks, and every other object that Airflow resolves.
    return hasattr(value, "resolve")
