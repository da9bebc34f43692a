"""
Entries of Cloud Logging about instances that an export could not write.

Google names them ``ExportDicomLogEntry``: the instance's resource name, and a ``google.rpc.Status``. Nothing
else of an entry is read, and of the error's text only what ``without_values`` leaves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_dicom.api.dicomweb import is_resource_path
from airflow_provider_dicom.api.foreign_text import printable, without_values

#: The longest message of an instance, in characters.
MAX_MESSAGE = 300
#: What differs from instance to instance in messages of one cause, beside the instance's own UIDs.
_NUMBER = re.compile(r"(?<![\w.])\d{4,}(?![\w.]*\d)")
_DIFFERS = "..."


@dataclass(frozen=True)
class FailedInstance:
    """
    An instance that an export could not write.

    :param resource_path: the instance's resource path; None if the entry names none.
    :param code: the number of the ``google.rpc.Code``, if there is one.
    :param message: the error message.
    """

    resource_path: str | None
    code: int | None
    message: str

    @property
    def cause(self) -> str:
        """The message without what differs from instance to instance."""
        text = self.message
        if self.resource_path is not None:
            text = text.replace(self.resource_path, _DIFFERS)
            for uid in self.resource_path.split("/")[2::2]:
                text = re.sub(rf"(?<![\w.]){re.escape(uid)}(?![\w.]*\d)", _DIFFERS, text)
        return _NUMBER.sub(_DIFFERS, text)


def failed_instance(payload: object) -> FailedInstance | None:
    """
    Read the payload of a log entry; None if the entry is not about an instance's error.

    :param payload: the payload as Google's client returns it.
    """
    error = payload.get("error") if isinstance(payload, dict) else None
    if not isinstance(payload, dict) or not isinstance(error, dict):
        return None
    code, message = error.get("code"), error.get("message")
    text = without_values(message) if isinstance(message, str) and message.strip() else "no message"
    return FailedInstance(
        _path(payload.get("resourceName", payload.get("resource_name"))),
        int(code) if isinstance(code, int | float) else None,
        printable(text.rstrip("."), MAX_MESSAGE),
    )


def _path(resource_name: object) -> str | None:
    """Return the resource path in a resource name, without the number of a frame; None if there is none."""
    if not isinstance(resource_name, str):
        return None
    _, mark, rest = resource_name.partition("/studies/")
    path = f"{mark}{rest}".partition("/frames/")[0]
    return path if is_resource_path(path) else None
