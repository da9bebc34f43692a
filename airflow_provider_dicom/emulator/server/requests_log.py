"""What was asked of the server."""

from __future__ import annotations

from collections import Counter, deque
from typing import Literal, TypedDict

_MOST_RECENT = 1000


class RequestRecord(TypedDict):
    """One request; the status is 0 when no answer was sent."""

    route: str
    method: str
    path: str
    query: str
    status: int
    authorization: Literal["none", "bearer"]
    user_agent: str


class RequestsReport(TypedDict):
    """All requests since the last reset."""

    counts: dict[str, int]
    connections: int
    recent: list[RequestRecord]


class RequestsLog:
    """Counts requests and the connections that they came on, and keeps the last thousand."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._counts: Counter[str] = Counter()
        self._connections: set[int] = set()
        self._recent: deque[RequestRecord] = deque(maxlen=_MOST_RECENT)

    def add(self, record: RequestRecord, connection: int) -> None:
        """Count a request.

        :param record: kept as it is, so that its status can still be filled in.
        :param connection: the number of the connection that it came on.
        """
        self._counts[record["route"]] += 1
        self._connections.add(connection)
        self._recent.append(record)

    def report(self) -> RequestsReport:
        """Return what was counted."""
        return {
            "counts": dict(self._counts),
            "connections": len(self._connections),
            "recent": list(self._recent),
        }
