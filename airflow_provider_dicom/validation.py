"""
How parameters may be filled, and what is refused.

``Kind`` says what becomes of a value that is nothing: None, an empty text, or the text ``None`` to which a
template renders None. Each check returns sentences, and one place turns sentences into an error.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TEMPLATE_MARKS = ("{{", "{%", "{#")


class Kind(Enum):
    """The kinds of parameters, by what becomes of a value that is nothing."""

    REQUIRED = "has to have a value: nothing is refused"
    RESTRICTION = "may be left out, and the task then reaches more: if it is there, nothing is refused"
    OPTIONAL = "may be left out: nothing means the same"
    FLAG = "True or False"
    OPTIONAL_FLAG = "True, False, or left out"
    NUMBER = "a number"
    OPTIONAL_NUMBER = "a number, or left out"


def is_nothing(value: object, *, is_rendered: bool) -> bool:
    """
    Tell whether a parameter's value is nothing; an empty list is not, because it says what to export.

    :param value: the value.
    :param is_rendered: the value comes from a template, so that the text ``None`` is nothing as well.
    """
    if isinstance(value, str):
        return not value.strip() or (is_rendered and value.strip() == "None")
    return value is None


def read_value(value: object, kind: Kind, *, is_rendered: bool) -> object:
    """
    Return the value that a parameter stands for: a path object and a whole number stand for their text.

    :param value: the value as given or rendered.
    :param kind: the parameter's kind.
    :param is_rendered: the value comes from a template, or from another task.
    """
    if kind in (Kind.FLAG, Kind.OPTIONAL_FLAG, Kind.NUMBER, Kind.OPTIONAL_NUMBER):
        return value
    # Paths of pathlib, and Airflow's ObjectStoragePath.
    if hasattr(value, "as_uri") or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    if kind is Kind.OPTIONAL and is_rendered and is_nothing(value, is_rendered=True):
        return None
    return value


def value_error(
    parameter: str, value: object, kind: Kind, *, is_given: bool, origin: str | None
) -> str | None:
    """
    Return the validation error of a value that its parameter's kind refuses, or None.

    :param parameter: the parameter's name, for the sentence.
    :param value: the value.
    :param kind: the parameter's kind.
    :param is_given: the DAG gives the parameter a value, whatever the value is by now.
    :param origin: the template, or what else the value comes from; None if the DAG holds the value itself.
    """
    if kind in (Kind.NUMBER, Kind.OPTIONAL_NUMBER) or (kind is Kind.OPTIONAL_FLAG and value is None):
        return None
    if kind in (Kind.FLAG, Kind.OPTIONAL_FLAG):
        if isinstance(value, bool):
            return None
        return (
            f"{parameter}={value!r} is {type(value).__name__}; accepted: True, False. The parameter is not "
            "templated, and a text is never read as a flag."
        )
    if isinstance(value, str) and has_template_marks(value):
        return (
            f"{parameter} still holds a template; accepted: a value. Values that come from other "
            "tasks, forms or Variables are data and are never rendered."
        )
    if not is_nothing(value, is_rendered=origin is not None) or kind is Kind.OPTIONAL:
        return None
    if kind is Kind.RESTRICTION and not is_given:
        return None
    if kind is Kind.REQUIRED and origin is None:
        # The check of the value says what is accepted.
        return None
    source = f", but {origin} is nothing" if origin else ""
    advice = ""
    if kind is Kind.RESTRICTION:
        advice = (
            f" Nothing never stands for everything: leave {parameter} out if it is not to restrict the task."
        )
    return f"{parameter}={value!r}; accepted: a value{source}.{advice}"


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


def is_count(value: object) -> bool:
    """
    Tell whether a value is a whole number from 1 on.

    :param value: the value.
    """
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def optional_count_error(parameter: str, value: object) -> str | None:
    """
    Return the validation error of a count that may be left out, or None.

    :param parameter: the parameter's name, for the sentence.
    :param value: the parameter's value.
    """
    if value is None or is_count(value):
        return None
    return f"{parameter}={value!r} is not accepted; accepted: a count from 1, or None."


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


def is_text_or_texts(value: object) -> bool:
    """
    Tell whether a value is a text, or a list of texts, none of them empty.

    :param value: the value.
    """
    texts = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(text, str) and text.strip() for text in texts)


def has_template_marks(text: str) -> bool:
    """
    Tell whether a text holds a mark that begins an expression, a statement or a comment of a template.

    :param text: the text.
    """
    return any(mark in text for mark in _TEMPLATE_MARKS)


def is_template(value: object) -> bool:
    """
    Tell whether a parameter gets its value only when the task runs.

    :param value: the parameter's value at parse time.
    """
    if isinstance(value, str):
        return has_template_marks(value)
    if isinstance(value, list | tuple | set):
        return any(is_template(item) for item in value)
    if isinstance(value, dict):
        return any(is_template(item) for item in value.values())
    # Outputs of other tasks, every other object that Airflow resolves, and functions that it calls.
    return (hasattr(value, "resolve") and not hasattr(value, "as_uri")) or callable(value)
