"""Splits multipart bodies into their parts while they are received (RFC 2046, 5.1.1).

A preamble before the first boundary and an epilogue behind the last one are skipped, and so are blanks behind
a boundary.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING

from python_multipart.multipart import parse_options_header

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.*)", re.DOTALL)
_MAX_HEADER_BYTES = 16 * 1024
_MAX_BLANKS = 1024


def parse_media_type(header: str | None) -> tuple[bytes, dict[bytes, bytes]]:
    """Return a media type and its parameters by their names, both in lower case.

    Older versions of the parser keep capitals.

    :param header: the value of a header such as ``Content-Type``.
    """
    kind, options = parse_options_header(header)
    return kind.lower(), {name.lower(): value for name, value in options.items()}


class MultipartError(Exception):
    """The body is malformed."""


class _State(Enum):
    PREAMBLE = auto()
    HEADERS = auto()
    DATA = auto()
    EPILOGUE = auto()


class MultipartSplitter:
    """Calls back for every part, in the order of the body.

    :param boundary: the parameter ``boundary`` of the ``Content-Type``.
    :param on_begin: is called with the content type of a part; empty without one.
    :param on_data: is called with the content of the part, in pieces.
    :param on_end: is called at the end of the part.
    """

    def __init__(
        self,
        boundary: bytes,
        on_begin: Callable[[str], None],
        on_data: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._on_begin = on_begin
        self._on_data = on_data
        self._on_end = on_end
        # The line break of the first boundary may be missing: nothing has to precede it.
        self._buffer = b"\r\n"
        self._state = _State.PREAMBLE

    @property
    def ended(self) -> bool:
        """Whether the last boundary was received."""
        return self._state is _State.EPILOGUE

    def write(self, chunk: bytes) -> None:
        """Read the next piece of the body.

        :raises MultipartError: the body is malformed.
        """
        self._buffer += chunk
        while self._read_headers() if self._state is _State.HEADERS else self._read_content():
            pass

    def _read_content(self) -> bool:
        """Read up to the next boundary, and return whether to go on."""
        if self.ended:
            self._buffer = b""
            return False
        found = self._buffer.find(self._delimiter)
        if found < 0:
            # The end of the buffer may be the beginning of a boundary.
            self._take(max(len(self._buffer) - len(self._delimiter) + 1, 0))
            return False
        self._take(found)
        rest = self._buffer[len(self._delimiter) : len(self._delimiter) + _MAX_BLANKS + 2]
        line = rest.lstrip(b" \t")
        if rest.startswith(b"--"):
            self._end_part(_State.EPILOGUE)
        elif line.startswith(b"\r\n"):
            self._end_part(_State.HEADERS)
            self._buffer = self._buffer[len(self._delimiter) + len(rest) - len(line) :]
        elif len(line) < 2 and len(rest) < _MAX_BLANKS:
            return False
        else:
            # A longer word than the boundary is part of the content.
            self._take(len(self._delimiter))
        return True

    def _take(self, size: int) -> None:
        if size and self._state is _State.DATA:
            self._on_data(self._buffer[:size])
        self._buffer = self._buffer[size:]

    def _end_part(self, state: _State) -> None:
        if self._state is _State.DATA:
            self._on_end()
        self._state = state

    def _read_headers(self) -> bool:
        """Read the headers of a part, which begin behind the line break of its boundary."""
        end = self._buffer.find(b"\r\n\r\n")
        if end > _MAX_HEADER_BYTES or (end < 0 and len(self._buffer) > _MAX_HEADER_BYTES):
            raise MultipartError(f"a part has more than {_MAX_HEADER_BYTES} bytes of headers")
        if end < 0:
            return False
        content_type = ""
        unfolded = re.sub(rb"\r\n[ \t]+", b" ", self._buffer[2:end])
        for line in unfolded.split(b"\r\n") if unfolded else []:
            header = _HEADER.fullmatch(line)
            if header is None:
                raise MultipartError("a part has a line among its headers that is none")
            if header[1].lower() == b"content-type":
                content_type = header[2].decode("latin-1").strip()
        self._buffer = self._buffer[end + 4 :]
        self._state = _State.DATA
        self._on_begin(content_type)
        return True
