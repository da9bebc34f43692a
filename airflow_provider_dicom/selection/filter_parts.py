"""
The parts of a selection: filter files with a limited number of paths, each for an export of its own.

Invariants:

- The name of a part says which part of how many it is.
- A later try that selects the same finds the files of the earlier one, and leaves them as they are.
- A later try that selects something else writes files of other names: an export that is running may still
  read those of the earlier try. These files say that the selection was split anew, because an instance may be
  in another part than before, and no part knows what the others have exported.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.destinations import parse_gcs_uri
from airflow_provider_dicom.selection.filter_file import map_filter_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_dicom.compat import Log
    from airflow_provider_dicom.selection.filter_file import FilterFile


def upload_parts(
    file: FilterFile,
    filter_uri: str,
    *,
    try_number: int,
    gcp_conn_id: str,
    impersonation_chain: str | Sequence[str] | None,
    log: Log,
) -> list[str]:
    """
    Upload the parts of a filter file, and return their URIs.

    :param file: the file.
    :param filter_uri: ``gs://bucket/object`` of the whole.
    :param try_number: the number of the task's try.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param log: the task's log.
    :raises DicomExportError: if a part cannot be written.
    """
    count = len(file.parts)
    former = _stored_parts(filter_uri, gcp_conn_id, impersonation_chain) if try_number > 1 else {}
    checksums = []
    for part in file.parts if former else ():
        with file.part(part) as part_file:
            checksums.append(part_file.md5)
    for stem, stored in former.items():
        if stored == dict(enumerate(checksums)):
            log.info("An earlier try has written the same paths to the same parts.")
            return [part_uri(filter_uri, number, count, stem) for number in range(count)]
    stem = f"-try{try_number}" if former else ""
    uris = [part_uri(filter_uri, number, count, stem) for number in range(count)]
    for uri, part in zip(uris, file.parts, strict=True):
        with file.part(part) as part_file:
            part_file.upload(
                uri,
                gcp_conn_id=gcp_conn_id,
                impersonation_chain=impersonation_chain,
                is_split_anew=bool(former),
            )
    log.info("Wrote the paths to %d parts, up to %s.", count, uris[-1])
    return uris


def part_uri(filter_uri: str, number: int, count: int, stem: str = "") -> str:
    """
    Return the URI of a part.

    :param filter_uri: ``gs://bucket/object`` of the whole.
    :param number: the part's number, from 0.
    :param count: the number of parts.
    :param stem: what tells the parts of a later try from those of an earlier one.
    """
    begin, end = _around(filter_uri)
    return f"{begin}{stem}-{number:05d}-of-{count:05d}{end}"


def _around(name: str) -> tuple[str, str]:
    """Return what comes before and after the number of a part."""
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.rpartition(".")
    return (f"{folder}{slash}{stem}", f".{extension}") if stem and dot else (name, "")


def _stored_parts(
    filter_uri: str, gcp_conn_id: str, impersonation_chain: str | Sequence[str] | None
) -> dict[str, dict[int, str | None]]:
    """Return the checksums of the parts in the bucket, by the stem of their try and their number."""
    from airflow.providers.google.cloud.hooks.gcs import GCSHook

    target = parse_gcs_uri(filter_uri, "filter_uri", is_object=True)
    begin, end = _around(target.path)
    name = re.compile(rf"{re.escape(begin)}(-try\d+)?-(\d{{5,}})-of-(\d{{5,}}){re.escape(end)}")
    parts: dict[str, dict[int, str | None]] = defaultdict(dict)
    with map_filter_errors(f"Could not list the parts of {filter_uri}", target.bucket, gcp_conn_id):
        client = GCSHook(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain).get_conn()
        for blob in client.list_blobs(target.bucket, prefix=f"{begin}-"):
            if (match := name.fullmatch(blob.name)) is not None:
                parts[match[1] or ""][int(match[2])] = blob.md5_hash
    return parts
