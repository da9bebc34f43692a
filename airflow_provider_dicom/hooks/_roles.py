"""The check of an account's roles: the connection's Test, and a part of the doctor's report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from airflow_provider_dicom.api import methods, permissions
from airflow_provider_dicom.exceptions import DicomExportPermissionError

if TYPE_CHECKING:
    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.api.permissions import CallerPermission
    from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName


class Sender(Protocol):
    """The part of a hook that the check uses."""

    @property
    def caller(self) -> str | None:
        """The e-mail address of the account that signs requests, if it is known."""

    def _send(self, request: ApiRequest, num_retries: int | None = None) -> object: ...


def check_roles(hook: Sender, store: DicomStoreName) -> tuple[bool, str]:
    """
    Read a DICOM store, and tell whether the account may export it, or which permissions it lacks.

    :param hook: the hook.
    :param store: the DICOM store.
    :raises DicomExportError: if the API cannot be asked.
    """
    # A person waits for the result, so no request is repeated. The store is read first because
    # testIamPermissions answers for a store that does not exist with no permission at all.
    refusal = None
    try:
        hook._send(methods.get_dicom_store(store), 0)
    except DicomExportPermissionError as error:
        refusal = error
    missing = _missing_permissions(hook, store, (permissions.GET_STORE, permissions.EXPORT))
    missing += _missing_permissions(
        hook, store.dataset, (permissions.GET_OPERATION, permissions.CANCEL_OPERATION)
    )
    explained = {
        needed: f"Missing: {needed.permission}. "
        + permissions.explain_caller(needed, store.dataset, store, hook.caller)
        for needed in missing
    }
    only_to_cancel = explained.pop(permissions.CANCEL_OPERATION, None)
    if explained:
        return False, " ".join(explained.values())
    if refusal is not None:
        return False, str(refusal)
    message = f"Read {store}. The connection's account may start exports and poll them"
    if only_to_cancel is None:
        return True, f"{message}, and cancel them."
    return True, f"{message}, but not cancel them when a task is killed. {only_to_cancel}"


def _missing_permissions(
    hook: Sender, resource: DicomStoreName | DatasetName, needed: tuple[CallerPermission, ...]
) -> list[CallerPermission]:
    request = methods.test_iam_permissions(resource, [one.permission for one in needed])
    response = cast("dict[str, list[str]]", hook._send(request, 0))
    return [one for one in needed if one.permission not in response.get("permissions", [])]
