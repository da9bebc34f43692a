"""Trouble on demand: error statuses, slowness, lost connections, garbage, forgotten operations."""

from __future__ import annotations

import random
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    model_validator,
)


def _retry_after(value: int | str) -> int | str:
    if isinstance(value, str):
        parsedate_to_datetime(value)
    elif value < 0:
        raise ValueError("retry_after must not be negative")
    return value


class Fault(BaseModel):
    """What is to go wrong, where, and how often.

    :param route: the name of a route as in ``/_emulator/requests``, or ``*`` for all.
    :param resource: only requests whose path contains this text, such as ``datasets/radiology/``.
    :param count: how often it fires; always if null.
    :param share: the part of the requests that it fires for, drawn with ``seed``.
    :param status: answered instead of carrying the request out.
    :param retry_after: seconds or an HTTP date, in the header of that answer.
    :param message: in place of the message that Google gives.
    :param latency_seconds: waited before anything else.
    :param hold_seconds: waited after the request was carried out, before it is answered.
    :param reset: the connection is reset before or after the request was carried out.
    :param body: what becomes of the answer's body; the request is carried out unless ``status`` is set.
    :param vanish: the operation that the request names is forgotten.
    """

    model_config = ConfigDict(extra="forbid")

    route: str
    resource: str | None = None
    count: PositiveInt | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    status: Annotated[int, Field(ge=400, le=599)] | None = None
    retry_after: Annotated[int | str, AfterValidator(_retry_after)] | None = None
    message: str | None = None
    latency_seconds: NonNegativeFloat | None = None
    hold_seconds: NonNegativeFloat | None = None
    reset: Literal["before", "after"] | None = None
    body: Literal["truncated", "html", "empty"] | None = None
    vanish: bool = False

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        slow = self.latency_seconds or self.hold_seconds
        if not (self.status or slow or self.reset or self.body or self.vanish):
            raise ValueError("one of status, latency_seconds, hold_seconds, reset, body and vanish is needed")
        if self.status is None and (self.retry_after is not None or self.message is not None):
            raise ValueError("retry_after and message need a status")
        return self


class FaultReport(BaseModel):
    """A fault, and how often it fired."""

    id: int
    fault: Fault
    fired: int


class _Armed:
    def __init__(self, identifier: int, fault: Fault) -> None:
        self.id = identifier
        self.fault = fault
        self.fired = 0
        self._random = random.Random(fault.seed)  # noqa: S311 - not for secrets

    def fires(self, route: str, path: str) -> bool:
        if self.fault.route not in (route, "*"):
            return False
        if self.fault.resource is not None and self.fault.resource not in path:
            return False
        if self.fault.count is not None and self.fired >= self.fault.count:
            return False
        if self.fault.share is not None and self._random.random() >= self.fault.share:
            return False
        self.fired += 1
        return True


class Faults:
    """The faults that are set, in the order in which they were."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._armed: list[_Armed] = []

    def add(self, fault: Fault) -> int:
        """Set a fault, and return its id."""
        armed = _Armed(next(self._ids), fault)
        self._armed.append(armed)
        return armed.id

    def remove(self, identifier: int) -> None:
        """Remove one fault; it may be gone already."""
        self._armed = [armed for armed in self._armed if armed.id != identifier]

    def clear(self) -> None:
        """Remove all faults."""
        self._armed.clear()

    def report(self) -> list[FaultReport]:
        """Return all faults, with how often each fired."""
        return [FaultReport(id=armed.id, fault=armed.fault, fired=armed.fired) for armed in self._armed]

    def draw(self, route: str, path: str) -> Fault | None:
        """Return the first fault that fires for a request, if one does."""
        return next((armed.fault for armed in self._armed if armed.fires(route, path)), None)
