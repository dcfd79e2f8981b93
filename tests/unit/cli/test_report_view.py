from __future__ import annotations

import io
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from airflow_fanout.cli.report_view import MOST_ROWS, show, tolerate_any_encoding
from airflow_fanout.reports.branches import group_runs
from airflow_fanout.reports.run_report import run_report
from airflow_fanout.reports.runs import TaskTry
from airflow_fanout.rules.capacity import Capacity, Limit
from airflow_fanout.serialization.outline import TaskOutline
from tests.unit.run_facts import NOON, batch, batched, facts_of, mapped, ran, static

if TYPE_CHECKING:
    from airflow_fanout.reports.runs import RunFacts

pytestmark = pytest.mark.unit


def shown(
    facts: RunFacts,
    capacity: Capacity | None = None,
    *,
    width: int = 80,
    encoding: str = "utf-8",
    **console: Any,
) -> str:
    """What is printed of a run, as bytes that a terminal of that encoding gets."""
    report = run_report(
        facts,
        group_runs(facts),
        now=NOON + timedelta(seconds=60),
        capacity_of=lambda run, count: capacity,
    )
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    tolerate_any_encoding(stream)
    show(
        report,
        Console(
            file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True, **console
        ),
    )
    return raw.getvalue().decode(encoding)


def rows(text: str) -> list[str]:
    """The rows of the time line."""
    lines = text.splitlines()
    begin = next(place for place, line in enumerate(lines) if re.match(r" +0 s ", line))
    end = next(place for place, line in enumerate(lines) if "running" in line and "queued  " in line)
    return lines[begin + 1 : end]


TWO = [
    ran("etl.eu", second=1, seconds=1.0, cpu_seconds=0.5, peak_memory_bytes=147_000_000),
    ran("etl.us", second=3, state="failed", error="ValueError: no such file", tries=2),
]


def test_the_head_says_which_run_it_is_and_how_its_branches_ended() -> None:
    lines = shown(facts_of(TWO, static("eu", "us"))).splitlines()

    assert lines[0] == "pipeline, run the run: success"
    assert lines[2] == "etl: 2 branches: 1 failed, 1 success"


def test_figures_are_explained_and_what_was_not_recorded_is_a_dash() -> None:
    text = shown(facts_of(TWO, static("eu", "us")))

    figures = {line[:9].strip(): line[10:].strip() for line in text.splitlines() if line[:1].isupper()}
    assert figures["Work"] == "1.0 s  what 1 of 2 branches took inside their code, added up"
    assert figures["Computed"].startswith("0.5 s")
    assert figures["Wall"].startswith("4.0 s  from the first branch queued")
    assert figures["Speed-up"].startswith("0.2×  work / wall")
    assert figures["At once"] == "1  of 2 branches, at the busiest moment"
    assert figures["Limit"].startswith("–")
    assert figures["Slowest"].endswith("eu")


@pytest.mark.parametrize(
    ("capacity", "said"),
    [
        pytest.param(
            Capacity(declared=2, effective=1, limit=Limit(name="pool", slots=1, where="small")),
            r"Limit +1  2 branches, at most 1 at once: pool of small is 1",
            id="one",
        ),
        pytest.param(
            Capacity(declared=2, effective=2, limit=None), r"Limit +none  keeps all branches", id="none"
        ),
    ],
)
def test_what_limits_a_group_is_named(capacity: Capacity, said: str) -> None:
    assert re.search(said, shown(facts_of(TWO, static("eu", "us")), capacity))


def test_the_time_line_shows_when_each_was_queued_and_ran() -> None:
    eu, us = rows(shown(facts_of(TWO, static("eu", "us"))))

    bars = [re.search("░*█+", row) for row in (eu, us)]
    assert all(bars)
    queued, ran_for = zip(*((b[0].count("░"), b[0].count("█")) for b in bars if b is not None), strict=True)
    assert queued[1] == pytest.approx(3 * queued[0], abs=2)
    assert ran_for[0] == pytest.approx(ran_for[1], abs=1)
    assert eu.split()[2:] == ["success", "1.0", "s", "0.5", "s", "147", "MB"]
    assert us.split()[2:] == ["failed", "2", "–", "–", "–"]


def test_the_hours_before_a_branch_was_cleared_are_left_out_of_the_time_line() -> None:
    night = NOON + timedelta(hours=12)
    again = ran("etl.us", queued=night, started=night, ended=night + timedelta(seconds=2), tries=2)

    text = shown(facts_of([ran("etl.eu"), again], static("eu", "us")))

    eu, us = rows(text)
    assert re.search("^eu +█{5,}┊", eu)
    assert re.search("^us +┊█{10,}", us)
    assert "┊ 12 h 0 min without any left out" in text
    assert "sooner" not in text  # it waited for being cleared, which is nothing to split


def test_an_earlier_try_is_drawn_and_leaves_no_gap() -> None:
    """Killed after five seconds of work, tried again seven seconds later."""
    before = TaskTry(number=1, state="failed", queued=NOON, started=NOON, ended=NOON + timedelta(seconds=5))
    again = ran("etl.us", second=12, queued=NOON + timedelta(seconds=12), tries=2, earlier=(before,))
    facts = facts_of([ran("etl.eu"), again], static("eu", "us"))

    text, plain = shown(facts), shown(facts, encoding="ascii")

    assert re.search("us +▒{5,}(┊| )+█+ ", text)
    assert "░ queued  █ running  ▒ an earlier try" in text
    assert ". queued  # running  = an earlier try" in plain
    assert "7.0 s without any left out" in text
    assert "▒" not in shown(facts_of(TWO, static("eu", "us")))


def test_of_several_tasks_the_one_that_failed_is_named() -> None:
    group = static("bolt", steps=("parse", "load"))
    facts = facts_of(
        [
            ran("etl.bolt.parse", state="failed", error="ValueError: no"),
            ran("etl.bolt.load", state="upstream_failed"),
        ],
        group,
    )

    assert "  bolt (parse): failed: ValueError: no\n" in shown(facts)


def test_an_earlier_try_of_one_of_several_tasks_is_drawn_within_its_branch() -> None:
    def times(first: float, last: float) -> dict[str, Any]:
        return {"started": NOON + timedelta(seconds=first), "ended": NOON + timedelta(seconds=last)}

    before = TaskTry(number=1, state="failed", queued=NOON + timedelta(seconds=4), **times(4, 6))
    group = static("bolt", steps=("parse", "load"))
    runs = [ran("etl.bolt.parse", **times(0, 4)), ran("etl.bolt.load", earlier=(before,), **times(6, 10))]

    (bolt,) = rows(shown(facts_of(runs, group)))

    assert re.search("█▒+█", bolt)


def test_a_batch_that_left_no_record_is_one_line() -> None:
    killed = [ran("docs.each", n, state="failed", record={}) for n in range(30)]
    facts = facts_of(killed, batched(items_per_task=75, count=30 * 75))

    text = shown(facts)

    assert "Without a value: 2,250 of 2,250 items\n  docs batch 0: 75 items: failed: no exception" in text
    assert "\n  and 750 more\n" in text


@pytest.mark.parametrize(
    ("record", "said"),
    [
        pytest.param({"elapsed": 0.5}, r"Overhead +50 %  of the time", id="recorded"),
        pytest.param({}, r"Overhead +–  items ran at once, how long all", id="not-recorded"),
    ],
)
def test_of_items_at_once_it_is_said_what_their_seconds_are(record: dict[str, Any], said: str) -> None:
    runs = [batch(n, "SS", seconds=[30.0, 46.0], concurrency=2, **record) for n in range(2)]

    text = shown(facts_of(runs, batched()))

    assert re.search(said, text)
    assert "1 min 16 s  docs batch 0: the work of its items, which ran at once, added up\n" in text


def test_a_limit_that_is_not_known_says_why() -> None:
    text = shown(facts_of(TWO, static("eu", "us")))

    assert re.search("Limit +–  not known: some of these tasks have limits of their own\n", text)


def test_errors_are_named_and_the_command_that_runs_them_again() -> None:
    text = shown(facts_of(TWO, static("eu", "us")))

    assert "Without a value: 1 of 2 branches\n  us: failed: ValueError: no such file\n" in text
    assert text.endswith("To run again what has failed: airflow fanout rerun pipeline 'the run'\n")


def test_the_cause_comes_before_what_it_kept_from_starting() -> None:
    facts = facts_of(
        [ran("etl.a", state="upstream_failed"), ran("etl.b", state="failed", error="E: no")], static("a", "b")
    )

    assert "  b: failed: E: no\n  a: upstream_failed\n" in shown(facts)


def test_branches_that_never_started_have_no_bars_and_the_cause_is_named() -> None:
    upstream = frozenset({"create_table", "log_in"})
    tasks = {i: TaskOutline(task_id=i, upstream=upstream) for i in ("etl.a", "etl.b")}
    runs = [ran(i, state="upstream_failed") for i in tasks]
    before = [ran("create_table", state="failed"), ran("log_in", 1, state="failed")]

    text = shown(facts_of([*before, *runs], static("a", "b"), tasks=tasks))

    assert "The cause lies before the branches: create_table (failed), log_in[1] (failed)\n" in text
    assert "Slowest" not in text
    assert "running" not in text


def test_an_error_of_several_lines_is_one() -> None:
    facts = facts_of([ran("etl.a", state="failed", error="E: a\n  [bold]b")], static("a"))

    assert "  a: failed: E: a [bold]b\n" in shown(facts)


def test_names_and_errors_give_the_terminal_no_commands() -> None:
    facts = facts_of(
        [ran("load.each", n, "failed", error="E: \x1b[2J", rendered_name=f"\x1b[31m{n}") for n in range(2)],
        mapped(),
    )

    text = shown(facts)

    assert "\x1b" not in text
    assert "  \\x1b[31m0: failed: E: \\x1b[2J\n" in text


MANY = [
    ran(
        "load.each", n, seconds=0.1 if n < 90 else 0.5, second=n % 7, state="failed" if n == 50 else "success"
    )
    for n in range(100)
]


def test_of_many_branches_the_failed_and_the_slowest_have_a_row() -> None:
    text = shown(facts_of(MANY, mapped()))

    found = rows(text)
    assert len(found) == MOST_ROWS
    names = [row.split()[0] for row in found]
    assert {"load_50", *(f"load_{n}" for n in range(90, 100))} <= set(names)
    assert names == sorted(names, key=lambda name: int(name.removeprefix("load_")))
    assert "80 more branches, neither slower nor failed" in text


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_the_time_line_fits_its_terminal(width: int) -> None:
    name = "a_branch_whose_name_is_as_long_as_a_name_may_become_in_practice"
    facts = facts_of(
        [
            ran(f"etl.{name}_{n}", second=n, seconds=72.0, cpu_seconds=3700.0, peak_memory_bytes=10**10)
            for n in range(3)
        ],
        static(*(f"{name}_{n}" for n in range(3))),
    )

    found = rows(shown(facts, width=width))

    assert len(found) == 3
    if width >= 80:
        assert all(cell_len(row.rstrip()) <= width for row in found)
        assert [row.split("…")[1].split()[0][-2:] for row in found] == ["_0", "_1", "_2"]


def test_items_are_counted_and_the_slowest_named() -> None:
    facts = facts_of(
        [batch(0, "SK", seconds=[0.5, None]), batch(1, "F", state="failed", errors={"0": "E: no"})], batched()
    )

    text = shown(facts)

    assert (
        "docs: 2 batches: 1 failed, 1 success\n3 items: 1 failed, 1 skipped, 1 success; in 2 batches\n"
        in text
    )
    assert "what 2 of 3 items took inside their code" in text
    assert "Slowest items (median 0.8 s):\n  docs_2: 1.0 s\n  docs_0: 0.5 s\n" in text
    assert "Without a value: 1 of 3 items\n  docs_2: failed: E: no\n" in text


def test_a_running_run_says_that_figures_are_those_so_far() -> None:
    facts = facts_of(
        [*TWO[:1], ran("etl.us", state="running", ended=None)], static("eu", "us"), state="running"
    )

    text = shown(facts)

    assert text.startswith("pipeline, run the run: running: these are the figures so far\n")
    assert "etl: 2 branches: 1 running, 1 success; not all have ended\n" in text
    assert re.search(r"Wall +1 min 0 s  since the first branch was queued", text)


def test_a_group_that_was_not_expanded_is_one_line() -> None:
    text = shown(facts_of([ran("load.each", state="upstream_failed")], mapped()))

    assert text.splitlines()[2:] == ["load: not expanded, upstream_failed"]


def test_a_terminal_without_the_characters_gets_others_in_the_same_places() -> None:
    facts = facts_of([*TWO, ran("etl.ünlü", second=2)], static("eu", "us", "ünlü"))

    plain, whole = shown(facts, encoding="ascii"), shown(facts)

    similar = str.maketrans({"░": ".", "█": "#", "┊": ":", "–": "-", "×": "x", "→": ">", "ü": "?"})
    assert plain == whole.translate(similar)


def test_a_pipe_gets_no_colours_and_a_terminal_does() -> None:
    facts = facts_of(TWO, static("eu", "us"))

    assert "\x1b" not in shown(facts)
    assert "\x1b" in shown(facts, force_terminal=True, color_system="standard")


def test_advice_is_given() -> None:
    capacity = Capacity(declared=2, effective=1, limit=Limit(name="pool", slots=1, where="small"))

    assert "\n→ 2 branches, at most 1 at once: pool of small is 1." in shown(
        facts_of(TWO, static("eu", "us")), capacity
    )
