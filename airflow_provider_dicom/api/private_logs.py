"""
What the HTTP libraries log about searches, whose URLs and answers may name a patient.

The libraries log each request's URL at DEBUG, and the headers that they cannot parse at WARNING. Their
loggers belong to everybody, so only records about a search are changed.
"""

from __future__ import annotations

import hashlib
import logging
import re

#: The loggers that see the URL of a request.
_LOGGERS = (
    "urllib3.connectionpool",
    "urllib3.connection",
    "urllib3.util.retry",
    "google.auth.transport.requests",
)
_SEARCH = re.compile(r"/dicomWeb/\S*")


def digest(text: str | bytes) -> str:
    """
    Describe a text that must not be quoted, so that two of them can be compared.

    :param text: the text.
    """
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:12]}"


class _SearchesHidden(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if _SEARCH.search(str(vars(record).get("httpRequest", ""))):
            # google-auth attaches the request to the record.
            del record.__dict__["httpRequest"]
        message = record.getMessage()
        if not _SEARCH.search(message):
            return True
        if record.exc_info or any(isinstance(argument, Exception) for argument in record.args or ()):
            # The error quotes the answer.
            message = _SEARCH.split(message)[0] + "/dicomWeb/..."
        record.msg, record.args = _SEARCH.sub("/dicomWeb/...", message), None
        record.exc_info = record.exc_text = record.stack_info = None
        return True


_SEARCHES_HIDDEN = _SearchesHidden()


def hide_searches() -> None:
    """Keep the URLs and answers of searches out of the HTTP libraries' log records, at all levels."""
    for name in _LOGGERS:
        # A filter that is there already is not added again.
        logging.getLogger(name).addFilter(_SEARCHES_HIDDEN)
