from __future__ import annotations

import pytest

from airflow_fanout.ui.access import foreign_origin

pytestmark = pytest.mark.unit

OWN = "https://airflow.example:8443/team"
PROXY = {"origin": "https://proxy.example", "host": "proxy.example", "x-forwarded-proto": "https"}
CROSS_SITE = {
    "sec-fetch-site": "cross-site",
    "origin": "https://airflow.example:8443",
    "authorization": "Bearer x",
}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"sec-fetch-site": "same-origin"}, id="the-browser-says-so"),
        pytest.param({"origin": "https://airflow.example:8443"}, id="the-configured-base-URL"),
        pytest.param({"origin": "http://localhost:8080", "host": "localhost:8080"}, id="where-it-went-to"),
        pytest.param(PROXY, id="through-a-proxy-that-ends-TLS"),
        pytest.param({**PROXY, "origin": "https://proxy.example:443"}, id="a-port-that-goes-without-saying"),
        pytest.param({"authorization": "Bearer abc"}, id="a-program-with-a-token"),
    ],
)
def test_airflows_own_pages_and_programs_with_a_token_may_ask(headers: dict[str, str]) -> None:
    assert foreign_origin(headers, own=OWN) is None


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        pytest.param({"sec-fetch-site": "cross-site"}, "cross-site", id="another-site"),
        pytest.param({"sec-fetch-site": "same-site"}, "same-site", id="a-neighbour"),
        pytest.param({"sec-fetch-site": "none"}, "none", id="typed-in"),
        pytest.param(CROSS_SITE, "cross-site", id="what-the-browser-says-counts-most"),
        pytest.param(
            {"origin": "https://evil.example", "host": "airflow.example"}, "evil", id="foreign-origin"
        ),
        pytest.param({"origin": "https://airflow.example:9"}, "airflow.example:9", id="another-port"),
        pytest.param({"origin": "http://airflow.example:8443"}, "http://", id="another-scheme"),
        pytest.param({"origin": "null"}, "null", id="a-sandbox"),
        pytest.param({"origin": "https://["}, "https://[", id="nonsense"),
        pytest.param({"origin": "", "host": ""}, "''", id="empty"),
        pytest.param({}, "neither", id="nothing-said"),
        pytest.param({"authorization": "Basic abc"}, "neither", id="a-password-that-browsers-send-unasked"),
        *(
            pytest.param({"authorization": empty, "cookie": "_token=a.b.c"}, "neither", id=f"{empty!r}")
            for empty in ("Bearer", "Bearer ", "bearer \t ", "Bearer\ta.b.c")
        ),
    ],
)
def test_all_others_are_refused_with_the_reason(headers: dict[str, str], problem: str) -> None:
    assert problem in (foreign_origin(headers, own=OWN) or "nothing")
