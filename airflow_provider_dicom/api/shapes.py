"""
The gate for what the API sends: an answer has the shape that the code relies on, or it is no answer.

A proxy, a cache or a broken server may send anything. What has passed this gate can be read without further
checks, written to logs, and stored by Airflow.
"""

from __future__ import annotations

import functools
import json
import math
import typing
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_dicom.api.foreign_text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

#: The deepest nesting of an object; serializers recurse, too.
MAX_DEPTH = 32
#: The text of this member is no message, and must come back to the API as it was.
_VERBATIM = "nextPageToken"


def parse_json(text: bytes) -> object:
    """
    Parse JSON, and refuse what Python accepts beyond it.

    :param text: the JSON.
    :raises ValueError: if it is no JSON, holds a number that is not finite, or is nested too deep.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deep") from None


def checked(value: object, shape: object) -> object:
    """
    Return a parsed answer with all its texts printable, if it has the expected shape.

    :param value: the parsed JSON.
    :param shape: a ``TypedDict``, or another type made of ``dict``, ``list``, ``str``, ``int`` and ``bool``;
        ``object`` stands for any value that is not nested too deep, ``Any`` for one that is not looked at.
    :raises ValueError: if the answer has another shape.
    """
    return _reader(shape)(value)


def _refuse_constant(name: str) -> object:
    raise ValueError(name)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


@functools.cache
def _reader(shape: object) -> Callable[[object], object]:
    """Build the function that reads a value of a shape; built once, because it runs for every poll."""
    if typing.is_typeddict(shape):
        return _typed_dict_reader(cast("type", shape))
    origin, arguments = typing.get_origin(shape), typing.get_args(shape)
    if origin is list:
        item = _reader(arguments[0])
        return lambda value: [item(one) for one in _expect(value, list)]
    if origin is dict:
        member = _reader(arguments[1])
        return lambda value: {printable(key): member(one) for key, one in _expect(value, dict).items()}
    if shape is Any:
        return lambda value: value
    if shape is object:
        return functools.partial(_cleaned, depth=MAX_DEPTH)
    if shape is str:
        return lambda value: printable(_expect(value, str))
    if shape is bool:
        return lambda value: _expect(value, bool)
    if shape is int:
        return _read_int
    if origin is not None:  # a union, in which the first type is the usual one
        first, second = map(_reader, arguments)
        return lambda value: first(value) if isinstance(value, arguments[0]) else second(value)
    raise TypeError(shape)


def _typed_dict_reader(shape: type) -> Callable[[object], object]:
    hints = typing.get_type_hints(shape)
    readers = {
        name: (lambda value: _expect(value, str)) if name == _VERBATIM else _reader(hint)
        for name, hint in hints.items()
    }
    # Not __required_keys__: it overlooks annotations that are strings.
    extras = typing.get_type_hints(shape, include_extras=True)
    required = {name for name, hint in extras.items() if typing.get_origin(hint) is typing.Required}
    unknown = _reader(object)

    def read(value: object) -> object:
        members = _expect(value, dict)
        if not all(members.get(name) for name in required):
            raise ValueError(f"{shape.__name__} without {', '.join(required)}")
        return {printable(name): readers.get(name, unknown)(one) for name, one in members.items()}

    return read


def _read_int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("not an integer")
    return value


def _expect(value: object, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"not {kind.__name__}")
    return value


def _cleaned(value: object, depth: int) -> object:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict | list):
        if depth == 0:
            raise ValueError("nested too deep")
        if isinstance(value, list):
            return [_cleaned(one, depth - 1) for one in value]
        return {printable(name): _cleaned(one, depth - 1) for name, one in value.items()}
    return value
