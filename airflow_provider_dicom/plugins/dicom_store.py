"""The tab "DICOM export" beside a task's log, which shows how far the export is (Airflow 3.1+)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowPlugin, conf

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

URL_PREFIX = "/dicom-export"
_PAGE = Path(__file__).parent / "progress_page"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A page of the version before would not understand the records of this one.
    "Cache-Control": "no-cache",
}


class ProgressPage:
    """
    Serves the files of the progress page, and nothing else: they are the same for everybody.

    What the page shows, the browser asks Airflow's own REST API for, with the viewer's login and rights.
    """

    def __init__(self) -> None:
        self._files: Callable[[Scope, Receive, Send], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer a request.

        :param scope: the request, as ASGI has it.
        :param receive: where its body would come from.
        :param send: where the answer goes.
        """
        if self._files is None:
            # Every worker loads the plugin; only web servers need this.
            from starlette.staticfiles import StaticFiles

            self._files = StaticFiles(directory=_PAGE, html=True)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self._files(scope, receive, send_with_headers)


class DicomExportPlugin(AirflowPlugin):
    """Puts the tab beside every task's log: Airflow has no means to choose among tasks."""

    name = "dicom_export"
    fastapi_apps = [  # noqa: RUF012 - as Airflow has it
        {"name": "DICOM export progress", "app": ProgressPage(), "url_prefix": URL_PREFIX}
    ]
    external_views = [  # noqa: RUF012 - as Airflow has it
        {
            "name": "DICOM export",
            # Relative: Airflow may live under a path of its own.
            "href": (
                f"{URL_PREFIX.removeprefix('/')}/"
                "?dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"
            ),
            "destination": "task_instance",
            "url_route": "dicom-export",
        }
    ]


#: The entry point: where Airflow loads the plugins of providers' metadata too, it must not find it twice.
PLUGIN_OF_LAZY_PROVIDERS = (
    DicomExportPlugin if conf.getboolean("core", "lazy_discover_providers", fallback=True) else None
)
