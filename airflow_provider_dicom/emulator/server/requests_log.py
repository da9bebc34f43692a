"""The log of requests to the API: counts per route, connections, and the latest requests."""

from __future__ import annotations

from collections import Counter, deque
from typing import Literal, TypedDict

#: Latest requests that are kept; a bound on memory.
_MAX_RECENT = 1000


class RequestRecord(TypedDict):
    """One request; ``status`` is 0 if no response was sent."""

    route: str
    method: str
    path: str
    query: str
    status: int
    authorization: Literal["none", "bearer"]
    user_agent: str


class RequestsReport(TypedDict):
    """The requests since the last reset; ``connections`` is the number of TCP connections that they used."""

    counts: dict[str, int]
    connections: int
    recent: list[RequestRecord]


class RequestsLog:
    """Counts requests and their connections, and keeps the latest requests."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start counting from zero."""
        self._counts: Counter[str] = Counter()
        self._connections: set[int] = set()
        self._recent: deque[RequestRecord] = deque(maxlen=_MAX_RECENT)

    def add(self, record: RequestRecord, connection: int) -> None:
        """Count a request.

        :param record: is kept, not copied: the caller may set ``status`` later.
        :param connection: the number of the connection that the request was received on.
        """
        self._counts[record["route"]] += 1
        self._connections.add(connection)
        self._recent.append(record)

    def report(self) -> RequestsReport:
        """Return counts and latest requests."""
        return {
            "counts": dict(self._counts),
            "connections": len(self._connections),
            "recent": list(self._recent),
        }
