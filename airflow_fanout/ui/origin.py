"""Whether a request that changes something comes from Airflow's own pages; when the tab clears something."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["why_foreign"]


def why_foreign(headers: Mapping[str, str], *, own: str) -> str | None:
    """
    Say why a request may come from another site; None if it doesn't.

    Browsers say where a request comes from and let no page change it: in ``Sec-Fetch-Site``, older ones in
    ``Origin``. A program that shows its token in ``Authorization`` is not led by a page at all.

    :param headers: The request's headers; names in small letters, if it is no mapping that ignores that.
    :param own: Airflow's own base URL, as browsers see it.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return None if site == "same-origin" else f"the browser says that it is {site}"
    origin = headers.get("origin")
    if origin is not None:
        known = {_origin(own), _origin(f"http://{headers.get('host', '')}"), _origin(_forwarded(headers))}
        return None if _origin(origin) in known - {None} else f"it comes from {origin!r}"
    if headers.get("authorization", "").lower().startswith("bearer "):
        return None
    return "it says neither where it comes from nor, in Authorization, who sent it"


def _forwarded(headers: Mapping[str, str]) -> str:
    return f"{headers.get('x-forwarded-proto', 'https')}://{headers.get('host', '')}"


def _origin(url: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.scheme not in {"http", "https"}:
        return None
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)
