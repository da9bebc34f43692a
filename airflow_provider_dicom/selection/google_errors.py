"""What Cloud Storage's refusals mean for the connection's account."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_dicom.exceptions import DicomExportNotFoundError, DicomExportPermissionError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def explained(what: str, bucket: str, gcp_conn_id: str, *, role: str, if_missing: str = "") -> Iterator[None]:
    """
    Turn the refusals of Cloud Storage's client into this provider's errors.

    :param what: what could not be done, for the sentence.
    :param bucket: the bucket's name.
    :param gcp_conn_id: the Airflow connection.
    :param role: the role that is needed on the bucket.
    :param if_missing: what to say on top if something is not there.
    :raises DicomExportPermissionError: if the connection's account may not do that.
    :raises DicomExportNotFoundError: if the bucket, or what is looked for in it, is not there.
    """
    from google.api_core.exceptions import Forbidden, NotFound

    try:
        yield
    except Forbidden as error:
        raise DicomExportPermissionError(
            f"{what}: {error}. Needed: {role} for the account of the connection {gcp_conn_id!r} on the "
            f"bucket {bucket}. Grant it with: gcloud storage buckets add-iam-policy-binding gs://{bucket} "
            f"--member=serviceAccount:CALLER_EMAIL --role={role}"
        ) from error
    except NotFound as error:
        raise DicomExportNotFoundError(f"{what}: {error}{if_missing}") from error
