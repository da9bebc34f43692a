"""The body of a response, read within bounds: a few bytes on the wire can stand for gigabytes."""

from __future__ import annotations

import zlib

#: The coding that both transports ask for.
ACCEPT_ENCODING = "gzip"
#: ``zlib``'s number for gzip.
_GZIP = 16 + zlib.MAX_WBITS


class UnreadableBodyError(ValueError):
    """The body is too large, or cannot be decoded; the text says which."""


class Body:
    """
    Collects the chunks of a body, and decodes them without ever holding more than the limit.

    :param encoding: the response's ``Content-Encoding``, if it has one.
    :param max_bytes: the size of the decoded body, in bytes.
    """

    def __init__(self, encoding: str | None, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._decoded = bytearray()
        coding = (encoding or "identity").strip().lower()
        if coding not in ("identity", "gzip", "x-gzip"):
            raise UnreadableBodyError("a coding that was not asked for")
        self._gzip = None if coding == "identity" else zlib.decompressobj(_GZIP)

    def feed(self, chunk: bytes) -> None:
        """
        Add a chunk as received.

        :param chunk: the bytes.
        :raises UnreadableBodyError: if the body is too large, or cannot be decoded.
        """
        if self._gzip is None:
            self._add(chunk)
            return
        while chunk:
            if self._gzip.eof:
                # A gzip file may have several members.
                self._gzip = zlib.decompressobj(_GZIP)
            try:
                self._add(self._gzip.decompress(chunk, self._max_bytes - len(self._decoded) + 1))
            except zlib.error:
                raise UnreadableBodyError("broken gzip") from None
            chunk = self._gzip.unconsumed_tail or self._gzip.unused_data

    def content(self) -> bytes:
        """
        Return the decoded body.

        :raises UnreadableBodyError: if the end is missing.
        """
        if self._gzip is not None and self._decoded and not self._gzip.eof:
            raise UnreadableBodyError("broken gzip")
        return bytes(self._decoded)

    def _add(self, decoded: bytes) -> None:
        if len(self._decoded) + len(decoded) > self._max_bytes:
            raise UnreadableBodyError(f"more than {self._max_bytes:,} bytes")
        self._decoded += decoded
