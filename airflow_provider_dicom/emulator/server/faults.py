"""Faults that tests inject: HTTP errors, latency, connection resets, damaged bodies, vanished operations."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
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
    PrivateAttr,
    model_validator,
)


def _retry_after(value: int | str) -> int | str:
    if isinstance(value, str):
        parsedate_to_datetime(value)
    elif value < 0:
        raise ValueError("retry_after must not be negative")
    return value


class Fault(BaseModel):
    """A fault: which requests it affects, how often, and what it does to them.

    :param route: the name of a route as in ``/_emulator/requests``, or ``*`` for all.
    :param resource: only requests whose path contains this text, such as ``datasets/radiology/``.
    :param count: the maximum number of requests that it affects; null: no limit.
    :param share: the probability that it affects a request, above 0 and up to 1; null: always.
    :param seed: the seed of the random numbers for ``share``.
    :param status: the HTTP status of an error response; the request is not executed.
    :param retry_after: the header Retry-After of that response: seconds, or an HTTP date.
    :param message: the error message of that response, instead of Google's.
    :param latency_seconds: delay in seconds before the request is executed; it ends when the fault is
        removed.
    :param hold_seconds: delay in seconds after the request was executed, before the response is sent; it ends
        when the fault is removed.
    :param reset: the connection is reset ``before`` or ``after`` the request is executed.
    :param body: the body is cut in half, replaced with HTML, or left out; the request is executed.
    :param vanish: the API forgets the operation that the request names.
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
    _removed: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        slow = self.latency_seconds or self.hold_seconds
        if not (self.status or slow or self.reset or self.body or self.vanish):
            raise ValueError("set one of status, latency_seconds, hold_seconds, reset, body and vanish")
        if self.status is None and (self.retry_after is not None or self.message is not None):
            raise ValueError("retry_after and message require status")
        return self

    async def delay(self, seconds: float) -> None:
        """Delay a request, until the fault is removed at the latest."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._removed.wait(), seconds)

    def release(self) -> None:
        """End the delay of all requests that the fault affects."""
        self._removed.set()


class FaultReport(BaseModel):
    """A fault, and the number of requests that it affected."""

    id: int
    fault: Fault
    fired: int


class _ActiveFault:
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
    """The active faults, in the order in which they were added; at most one affects a request."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._active: list[_ActiveFault] = []

    def add(self, fault: Fault) -> int:
        """Add a fault, and return its id."""
        active = _ActiveFault(next(self._ids), fault)
        self._active.append(active)
        return active.id

    def remove(self, identifier: int) -> None:
        """Remove one fault, which ends its delays; an unknown id is ignored."""
        for active in self._active:
            if active.id == identifier:
                active.fault.release()
        self._active = [active for active in self._active if active.id != identifier]

    def clear(self) -> None:
        """Remove all faults, which ends their delays."""
        for active in self._active:
            active.fault.release()
        self._active.clear()

    def report(self) -> list[FaultReport]:
        """Return all faults, each with the number of requests that it affected."""
        return [FaultReport(id=active.id, fault=active.fault, fired=active.fired) for active in self._active]

    def draw(self, route: str, path: str) -> Fault | None:
        """Return the first fault that affects a request, and count it; None if there is none."""
        return next((active.fault for active in self._active if active.fires(route, path)), None)
