"""Pictures of the tab, for people to look at; FANOUT_UI_SCREENSHOTS names the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.ui.runs import Runs
    from tests.ui.tab import Open

IMAGES = Path(__file__).parents[2] / "docs" / "images"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_tab_in_airflow_has_its_picture_and_the_guides_one_is_small(
    open_tab: Open, runs: Runs, tmp_path: Path, theme: str
) -> None:
    tab = open_tab(runs.finished("nightly_scoring"), framed=True, theme=theme, height=1150)
    expect(tab.group("score").locator(".head")).to_have_text("12 of 12 branches done · 2 failed · degraded")
    tab.page.wait_for_load_state("networkidle")
    picture = Path(os.environ.get("FANOUT_UI_SCREENSHOTS", tmp_path)) / f"fan-out-tab-{theme}.png"
    tab.page.screenshot(path=picture, animations="disabled")
    assert picture.stat().st_size > 20_000
    assert 20_000 < (IMAGES / picture.name).stat().st_size <= 150_000
