"""The work of a long-running operation, item by item: an export or an import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

INVALID_ARGUMENT, NOT_FOUND = 3, 5
#: The types of the responses of operations that succeeded.
RESPONSES = "type.googleapis.com/google.cloud.healthcare.v1.dicom"


class ItemFailedError(Exception):
    """One item failed.

    :param code: the number of the ``google.rpc.Code``.
    :param message: the reason.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Missing(NamedTuple):
    """An item that cannot be processed, as :meth:`.models.operations.Operation.log_failure` takes it."""

    name: str
    path: str
    code: int
    message: str


class Item(NamedTuple):
    """One item of the work.

    :param name: its name in the log of the operation.
    :param path: its path in the DICOM store, or the URI of an imported object.
    :param process: processes it; an :class:`ItemFailedError` fails this item only, an ``ApiError`` ends the
        operation.
    """

    name: str
    path: str
    process: Callable[[], None]


class Work(Protocol):
    """The work of one operation; used by one thread at a time, in the order of the methods."""

    @property
    def response(self) -> str:
        """The type of the response of an operation that succeeded."""

    @property
    def repeatable(self) -> bool:
        """Whether the work may be done twice: objects are replaced, rows are duplicated."""

    @property
    def done(self) -> str:
        """What happens to an instance, for messages: ``exported`` or ``imported``."""

    @property
    def partial_failure(self) -> Literal["error"] | None:
        """What an operation with failed items ends with; None: the setting ``partial_failure`` decides."""

    def check(self) -> int:
        """Check what is checked before a request is accepted, and return the number of items; 0 if unknown.

        :raises ApiError: the request is refused.
        """

    def begin(self) -> tuple[list[Item], list[Missing]]:
        """Return the items, and why others fail from the start.

        :raises ApiError: the operation ends with this error.
        """

    def close(self, *, cancelled: bool) -> None:
        """Make the output visible, and close the connections.

        :param cancelled: the operation was cancelled or has failed: discard what is not visible yet.
        :raises ApiError: the operation ends with this error.
        """
