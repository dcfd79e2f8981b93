"""Pictures of the tab, for people to look at; FANOUT_UI_SCREENSHOTS names the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ui.runs import Runs
    from tests.ui.tab import Tab

    Open = Callable[..., Tab]

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES = 150_000


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("FANOUT_UI_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_tab_in_airflow_has_its_picture(open_tab: Open, runs: Runs, folder: Path, theme: str) -> None:
    tab = open_tab(runs.finished("nightly_scoring"), framed=True, theme=theme, height=1150)
    expect(tab.group("score").locator(".head")).to_have_text("12 of 12 branches done · 2 failed · degraded")
    tab.page.wait_for_load_state("networkidle")
    picture = folder / f"fan-out-tab-{theme}.png"
    tab.screenshot(picture)
    assert picture.stat().st_size > 20_000


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_readmes_picture_is_small(theme: str) -> None:
    assert 20_000 < (IMAGES / f"fan-out-tab-{theme}.png").stat().st_size <= MOST_BYTES


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("dag_id", ["tab", "tab_many", "tab_plain"])
def test_every_kind_of_run_has_its_picture(
    open_tab: Open, runs: Runs, folder: Path, *, dag_id: str, width: int, theme: str
) -> None:
    tab = open_tab(runs.finished(dag_id), width=width, theme=theme)
    if dag_id == "tab":
        tab.group("square").locator(".row.branch").first.click()
        expect(tab.group("square").locator(".row.item").first).to_be_visible()
    picture = folder / f"{dag_id}-{width}-{theme}.png"
    tab.page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 5_000


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_dialog_has_its_picture(open_tab: Open, runs: Runs, folder: Path, theme: str) -> None:
    tab = open_tab(runs.finished("nightly_scoring"), theme=theme)
    tab.group("score").get_by_role("button", name="Run failed again…").click()
    expect(tab.find("dialog .sum")).to_contain_text("will be cleared")
    picture = folder / f"dialog-{theme}.png"
    tab.screenshot(picture)
    assert picture.stat().st_size > 5_000
