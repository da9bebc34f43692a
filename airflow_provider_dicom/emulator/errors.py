"""Errors in the two forms of Google's APIs: the body of an HTTP error, and ``google.rpc.Status``."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class RpcStatus(TypedDict):
    """``google.rpc.Status``, the error of a failed operation."""

    code: int
    message: str
    details: NotRequired[list[dict[str, object]]]


class ErrorBody(TypedDict):
    """The field ``error`` of the envelope."""

    code: int
    message: str
    status: str
    details: NotRequired[list[dict[str, object]]]


class ErrorEnvelope(TypedDict):
    """The body of an HTTP error response."""

    error: ErrorBody


#: HTTP status -> (number, name) of the google.rpc.Code; for a status of several codes, the most usual one.
RPC_CODES: dict[int, tuple[int, str]] = {
    400: (3, "INVALID_ARGUMENT"),
    401: (16, "UNAUTHENTICATED"),
    403: (7, "PERMISSION_DENIED"),
    404: (5, "NOT_FOUND"),
    408: (4, "DEADLINE_EXCEEDED"),
    409: (6, "ALREADY_EXISTS"),
    412: (9, "FAILED_PRECONDITION"),
    413: (3, "INVALID_ARGUMENT"),
    416: (11, "OUT_OF_RANGE"),
    429: (8, "RESOURCE_EXHAUSTED"),
    499: (1, "CANCELLED"),
    500: (13, "INTERNAL"),
    501: (12, "UNIMPLEMENTED"),
    502: (14, "UNAVAILABLE"),
    503: (14, "UNAVAILABLE"),
    504: (4, "DEADLINE_EXCEEDED"),
}


class ApiError(Exception):
    """An error of the API: the HTTP error of a request, or the error of an operation.

    :param http_status: the status code of the HTTP response.
    :param rpc_code: the number of the ``google.rpc.Code``.
    :param status: the name of the ``google.rpc.Code``.
    :param message: the error message, for developers.
    :param details: objects with an ``@type``, such as ``google.rpc.BadRequest``.
    """

    def __init__(
        self,
        http_status: int,
        rpc_code: int,
        status: str,
        message: str,
        details: list[dict[str, object]] | None = None,
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.rpc_code = rpc_code
        self.status = status
        self.message = message
        self.details = details or []

    @classmethod
    def of_http_status(cls, http_status: int, message: str) -> ApiError:
        """Return the error with the ``google.rpc.Code`` that belongs to an HTTP status."""
        unknown = (3, "INVALID_ARGUMENT") if http_status < 500 else (13, "INTERNAL")
        rpc_code, status = RPC_CODES.get(http_status, unknown)
        return cls(http_status, rpc_code, status, message)

    @classmethod
    def invalid_argument(cls, message: str) -> ApiError:
        """Return a 400: the request itself is invalid."""
        return cls.of_http_status(400, message)

    @classmethod
    def failed_precondition(cls, message: str) -> ApiError:
        """Return a 400: the request is valid, but the state of the resource does not allow it."""
        return cls(400, 9, "FAILED_PRECONDITION", message)

    @classmethod
    def unauthenticated(cls, message: str) -> ApiError:
        """Return a 401."""
        return cls.of_http_status(401, message)

    @classmethod
    def permission_denied(cls, message: str) -> ApiError:
        """Return a 403."""
        return cls.of_http_status(403, message)

    @classmethod
    def not_found(cls, message: str) -> ApiError:
        """Return a 404."""
        return cls.of_http_status(404, message)

    @classmethod
    def already_exists(cls, message: str) -> ApiError:
        """Return a 409."""
        return cls.of_http_status(409, message)

    @classmethod
    def resource_exhausted(cls, message: str) -> ApiError:
        """Return a 429."""
        return cls.of_http_status(429, message)

    @classmethod
    def cancelled(cls, message: str) -> ApiError:
        """Return a 499, the error of a cancelled operation."""
        return cls.of_http_status(499, message)

    @classmethod
    def unknown(cls, message: str) -> ApiError:
        """Return a 500 without a known cause."""
        return cls(500, 2, "UNKNOWN", message)

    @classmethod
    def internal(cls, message: str) -> ApiError:
        """Return a 500."""
        return cls.of_http_status(500, message)

    @classmethod
    def unimplemented(cls, message: str) -> ApiError:
        """Return a 501: a feature of the Healthcare API that this server lacks."""
        return cls.of_http_status(501, message)

    @classmethod
    def unavailable(cls, message: str) -> ApiError:
        """Return a 503."""
        return cls.of_http_status(503, message)

    def envelope(self) -> ErrorEnvelope:
        """Return the error as the body of an HTTP response."""
        body: ErrorBody = {"code": self.http_status, "message": self.message, "status": self.status}
        if self.details:
            body["details"] = self.details
        return {"error": body}

    def rpc_status(self) -> RpcStatus:
        """Return the error as the error of an operation."""
        status: RpcStatus = {"code": self.rpc_code, "message": self.message}
        if self.details:
            status["details"] = self.details
        return status
