"""One Airflow for all tests of the tab, the runs on it, and a browser."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import sync_playwright

from tests.support.database import metadata_database
from tests.ui.airflow_with_users import AirflowWithUsers, log_in
from tests.ui.runs import Runs
from tests.ui.tab import Open, Tab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

REPOSITORY = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ui)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose files tasks wait for; its path is in their environment."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory, scratch: Path) -> Iterator[AirflowWithUsers]:
    """A scheduler, a Dag processor and an API server, on SQLite or where FANOUT_E2E_POSTGRES says."""
    with (
        metadata_database() as url,
        AirflowWithUsers(
            dag_files=[*sorted(DAGS.glob("*.py")), REPOSITORY / "tests" / "e2e" / "dags" / "rerun_many.py"],
            home=tmp_path_factory.mktemp("airflow"),
            database_url=url,
            env={
                "FANOUT_UI_SCRATCH": str(scratch),
                # More at once would only wait for each other.
                "AIRFLOW__CORE__PARALLELISM": "8",
                # A file that changes is parsed again all the same.
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
                "AIRFLOW__CORE__ALLOWED_DESERIALIZATION_CLASSES": "tests.ui.traced.Traced",
                "FANOUT_UI_TRACE": str(scratch / "trace"),
            },
        ) as started,
    ):
        yield started


@pytest.fixture(scope="session")
def runs(airflow: AirflowWithUsers, scratch: Path) -> Runs:
    """The runs that are looked at; most are started with the first one that is asked for."""
    return Runs(airflow, scratch)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, as the system has it."""
    named = os.environ.get("FANOUT_UI_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        why = f"none of {', '.join(CHROMIUM)} is installed (on Debian: apt-get install chromium)"
        # Where nothing may be missing, it fails.
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def tokens(airflow: AirflowWithUsers) -> dict[str, str]:
    """What each user's session is known by."""
    return {name: log_in(airflow.base_url, name) for name in ("admin", "viewer")}


@pytest.fixture
def open_tab(browser: Browser, airflow: AirflowWithUsers, tokens: dict[str, str]) -> Iterator[Open]:
    """Call it with a run, and what else :class:`Tab` takes; what browsers complain about is an error."""
    tabs: list[Tab] = []

    def open_it(run: tuple[str, str], *, user: str = "admin", **settings: Any) -> Tab:
        tab = Tab(browser, airflow.base_url, run, token=tokens[user], **settings)
        tabs.append(tab)
        return tab

    yield open_it
    complaints = [complaint for tab in tabs for complaint in tab.close()]
    assert complaints == []


@pytest.fixture
def tab(open_tab: Open, runs: Runs) -> Tab:
    """The tab of the run with groups of every mode."""
    return open_tab(runs.finished("tab"))
