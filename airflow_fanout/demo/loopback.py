"""Has an API server on loopback refuse what was sent to another name; in its process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"

NAMES = frozenset({HOST, "localhost"})
"""What a request's ``Host`` may be, with any port."""

REFUSAL = b"This Airflow answers at 127.0.0.1 and localhost alone"


class LoopbackOnly:
    """
    Refuses a request whose ``Host`` is another machine's name.

    A page of another site can have its own name lead to this machine, and then read what answers under it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI has it."""
        if scope["type"] == "lifespan" or _name(scope) in NAMES:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(REFUSAL))]
            await send({"type": "http.response.start", "status": 421, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})


def _name(scope: Scope) -> str:
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return hosts[0].decode("latin-1").partition(":")[0].lower() if len(hosts) == 1 else ""


PLUGIN = f"""
from airflow.plugins_manager import AirflowPlugin
from {__name__} import {LoopbackOnly.__name__}

class LoopbackPlugin(AirflowPlugin):
    name = "fan_out_loopback"
    fastapi_root_middlewares = [
        {{"middleware": {LoopbackOnly.__name__}, "args": [], "kwargs": {{}}, "name": "Loopback only"}}
    ]
"""
"""A plugin's file, which puts that in front of a whole API server."""
