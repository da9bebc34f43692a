"""The tab "DICOM export" beside a task's log, which shows the progress of the export (Airflow 3.1+)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from airflow.providers.common.compat.sdk import AirflowPlugin, conf
except ImportError:  # common-compat before 1.12
    from airflow.configuration import conf
    from airflow.plugins_manager import AirflowPlugin  # type: ignore[assignment]

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
    # A cached page of an older version would not understand the records of this version.
    "Cache-Control": "no-cache",
}


class ProgressPage:
    """
    Serves the static files of the progress page, which are the same for everybody.

    The browser reads the data from Airflow's own REST API, with the viewer's login and rights.
    """

    def __init__(self) -> None:
        self._files: Callable[[Scope, Receive, Send], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Handle a request.

        :param scope: the ASGI scope of the request.
        :param receive: the ASGI channel of the request's body.
        :param send: the ASGI channel of the response.
        """
        # Every worker loads the plugin, but only web servers need Starlette.
        from starlette.exceptions import HTTPException
        from starlette.responses import PlainTextResponse

        if self._files is None:
            from starlette.staticfiles import StaticFiles

            self._files = StaticFiles(directory=_PAGE, html=True)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        try:
            await self._files(scope, receive, send_with_headers)
        except HTTPException as error:
            # Left to the web server, a 404 or 405 would have no headers of this page.
            response = PlainTextResponse(error.detail, error.status_code, error.headers)
            await response(scope, receive, send_with_headers)


class DicomExportPlugin(AirflowPlugin):
    """Adds the tab beside every task's log; Airflow cannot limit a tab to certain tasks."""

    name = "dicom_export"
    fastapi_apps = [  # noqa: RUF012 - as Airflow has it
        {"name": "DICOM export progress", "app": ProgressPage(), "url_prefix": URL_PREFIX}
    ]
    external_views = [  # noqa: RUF012 - as Airflow has it
        {
            "name": "DICOM export",
            # Relative, because Airflow may be served below a path prefix.
            "href": (
                f"{URL_PREFIX.removeprefix('/')}/"
                "?dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"
            ),
            "destination": "task_instance",
            "url_route": "dicom-export",
        }
    ]


#: The entry point. It is empty where Airflow also loads the plugins of providers' metadata, so that Airflow
#: does not find the plugin twice.
PLUGIN_OF_LAZY_PROVIDERS = (
    DicomExportPlugin if conf.getboolean("core", "lazy_discover_providers", fallback=True) else None
)
