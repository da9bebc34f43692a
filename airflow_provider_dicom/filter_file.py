"""The filter file of an export: resource paths, one a line, in Cloud Storage."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_provider_dicom.destinations import parse_gcs_uri
from airflow_provider_dicom.exceptions import DicomExportNotFoundError, DicomExportPermissionError
from airflow_provider_dicom.resources import MAX_UID_LENGTH, UID_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterable

_RESOURCE_PATH = re.compile(rf"/studies/{UID_PATTERN}(?:/series/{UID_PATTERN}(?:/instances/{UID_PATTERN})?)?")
_SHOWN = 5
_ACCEPTED = "'/studies/UID[/series/UID[/instances/UID]]'"


def resource_path_mistakes(paths: object) -> list[str]:
    """
    Say what is wrong with resource paths, one sentence for each of the first few mistakes.

    :param paths: a list of resource paths.
    """
    if isinstance(paths, str) or not isinstance(paths, Sequence):
        refused = f"resource_paths={paths!r} is {type(paths).__name__}, not a list"
        return [f"{refused}; accepted: a list of {_ACCEPTED}, such as the output of another task."]
    mistakes = [
        f"resource_paths holds {path!r}; accepted: {_ACCEPTED}."
        for path in paths
        if not _is_resource_path(path)
    ]
    more = [f"{len(mistakes) - _SHOWN} more are refused as well."] if len(mistakes) > _SHOWN else []
    return mistakes[:_SHOWN] + more


def _is_resource_path(path: object) -> bool:
    return (
        isinstance(path, str)
        and _RESOURCE_PATH.fullmatch(path) is not None
        and all(len(part) <= MAX_UID_LENGTH for part in path.split("/"))
    )


def write_filter_file(
    paths: Iterable[str],
    filter_uri: str,
    *,
    gcp_conn_id: str,
    impersonation_chain: str | Sequence[str] | None,
) -> int:
    """
    Write resource paths, each once, to a filter file.

    :param paths: the resource paths.
    :param filter_uri: ``gs://bucket/object``.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :return: how many paths were written.
    :raises DicomExportInvalidRequestError: if the URI is not acceptable.
    :raises DicomExportPermissionError: if the connection's account may not write there.
    :raises DicomExportNotFoundError: if there is no such bucket.
    """
    from airflow.providers.google.cloud.hooks.gcs import GCSHook
    from google.api_core.exceptions import Forbidden, NotFound

    target = parse_gcs_uri(filter_uri, "filter_uri", is_object=True)
    unique = dict.fromkeys(paths)
    hook = GCSHook(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain)
    with tempfile.NamedTemporaryFile("w", encoding="ascii", suffix=".txt") as file:
        file.writelines(f"{path}\n" for path in unique)
        file.flush()
        try:
            hook.upload(
                bucket_name=target.bucket,
                object_name=target.path,
                filename=file.name,
                mime_type="text/plain",
            )
        except Forbidden as error:
            raise DicomExportPermissionError(
                f"Could not write the filter file {filter_uri}: {error}. Needed: roles/storage.objectUser "
                f"for the account of the connection {gcp_conn_id!r} on the bucket {target.bucket}. Grant it "
                f"with: gcloud storage buckets add-iam-policy-binding gs://{target.bucket} "
                "--member=serviceAccount:CALLER_EMAIL --role=roles/storage.objectUser"
            ) from error
        except NotFound as error:
            raise DicomExportNotFoundError(
                f"Could not write the filter file {filter_uri}: {error}. The bucket must exist."
            ) from error
    return len(unique)
