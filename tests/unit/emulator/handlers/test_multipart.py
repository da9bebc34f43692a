"""Multipart bodies, in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.emulator.handlers.multipart import MultipartError, MultipartSplitter

BOUNDARY = b"b0"
CONTENTS = st.lists(st.sampled_from([b"\r\n", b"--b0", b"--b", b"-", b"\r", b"\n", b"x", b" "])).map(b"".join)


def split(*pieces: bytes) -> list[tuple[str, bytes]] | None:
    """Return the types and contents of a body's parts; None if its end is missing."""
    parts: list[tuple[str, list[bytes]]] = []
    open_parts = []

    def begin(content_type: str) -> None:
        parts.append((content_type, []))
        open_parts.append(content_type)

    def end() -> None:
        open_parts.pop()

    splitter = MultipartSplitter(BOUNDARY, begin, lambda data: parts[-1][1].append(data), end)
    for piece in pieces:
        splitter.write(piece)
    assert not (splitter.ended and open_parts)
    return [(kind, b"".join(data)) for kind, data in parts] if splitter.ended else None


@given(
    st.lists(
        CONTENTS.filter(lambda content: b"\r\n--b0" not in b"\r\n" + content + b"\r\n"),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([b"", b"\r\n", b"a preamble\r\n--b1\r\n", b"--b00\r\n"]),
    st.sampled_from([b"", b" ", b"\t  "]),
    st.sampled_from([b"", b"\r\n", b" an epilogue\r\n--b0\r\n"]),
    st.integers(1, 40),
)
def test_parts_are_the_same_whatever_the_pieces(
    contents: list[bytes], preamble: bytes, blanks: bytes, epilogue: bytes, size: int
) -> None:
    parts = b"".join(b"--b0%s\r\nContent-Type: t\r\n\r\n%s\r\n" % (blanks, content) for content in contents)
    body = preamble + parts + b"--b0--" + epilogue
    expected = [("t", content) for content in contents]
    assert split(body) == expected
    assert split(*(body[start : start + size] for start in range(0, len(body), size))) == expected


def test_headers_are_read() -> None:
    assert split(b"--b0\r\n\r\nx\r\n--b0--") == [("", b"x")]
    assert split(b"--b0\r\nX: y\r\ncontent-TYPE: a/b;\r\n\tc=d\r\n\r\n\r\n--b0--") == [("a/b; c=d", b"")]


def test_body_without_its_last_boundary_has_not_ended() -> None:
    for body in (
        b"",
        b"--b0",
        b"--b0-",
        b"--b0\r\n\r\nx",
        b"--b0\r\n\r\nx\r\n--b0\r\n\r\n--b0 --",
        b"no boundary",
    ):
        assert split(body) is None


def test_malformed_headers_are_refused() -> None:
    for headers in (b"Content Type: t", b"no colon", b": t", b"X" * 20_000):
        with pytest.raises(MultipartError):
            split(b"--b0\r\n%s\r\n\r\nx" % headers)
