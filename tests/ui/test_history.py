"""The tab of a Dag: its last runs beside each other, and what failed in them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.ui.test_readable import TOO_WIDE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.ui.airflow_with_users import AirflowWithUsers
    from tests.ui.runs import Runs


@pytest.mark.parametrize("width", [1280, 390])
def test_runs_and_what_failed_in_them_are_on_the_page_of_the_dag(
    browser: Browser, airflow: AirflowWithUsers, tokens: dict[str, str], runs: Runs, width: int
) -> None:
    dag_id, run_id = runs.finished("nightly_scoring")
    context = browser.new_context(base_url=airflow.base_url, viewport={"width": width, "height": 900})
    context.add_cookies([{"name": "_token", "value": tokens["admin"], "url": airflow.base_url}])
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"/dags/{dag_id}/plugin/fan-out-history")
    frame = page.frame_locator("iframe")
    frame.locator("#groups[data-state]").wait_for(state="attached", timeout=60_000)
    group = frame.locator("section.group")
    expect(group.locator(".title")).to_have_text("score")
    expect(group.locator(".head")).to_contain_text("1 run · 1 with failed branches · 1 degraded")
    expect(group.locator(".runs tbody tr")).to_have_count(1)
    expect(group.locator(".runs tbody tr")).to_contain_text(run_id)
    expect(group.locator(".failed tbody tr").first).to_contain_text("1 of 1 run")
    assert group.locator(".failed tbody th").all_inner_texts() == ["croatia", "latvia"]
    assert page.frames[-1].evaluate(TOO_WIDE) == []

    group.get_by_role("link", name=run_id).click()
    expect(page).to_have_url(f"{airflow.base_url}/dags/{dag_id}/runs/{quote(run_id, safe='')}/plugin/fan-out")
    context.close()
    assert errors == []


def test_a_dag_without_a_fan_out_says_so(
    browser: Browser, airflow: AirflowWithUsers, tokens: dict[str, str], runs: Runs
) -> None:
    dag_id, _ = runs.finished("tab_plain")
    context = browser.new_context(base_url=airflow.base_url)
    context.add_cookies([{"name": "_token", "value": tokens["viewer"], "url": airflow.base_url}])
    page = context.new_page()
    page.goto(f"/fan-out/dags/{dag_id}/history")
    expect(page.locator("#notice")).to_contain_text("Nothing was fanned out in the last runs", timeout=60_000)
    context.close()
