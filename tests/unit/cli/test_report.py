from __future__ import annotations

import io
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from airflow_fanout.cli.report import show, tolerate_any_encoding
from airflow_fanout.cli.time_line import MOST_ROWS
from airflow_fanout.reports.branches import group_runs
from airflow_fanout.reports.run_report import run_report
from airflow_fanout.reports.timing import TaskTry
from airflow_fanout.rules.capacity import Capacity, Limit
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
        facts, group_runs(facts), now=NOON + timedelta(seconds=60), capacity_of=lambda run, count: capacity
    )
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    tolerate_any_encoding(stream)
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
    show(report, Console(file=stream, width=width, **plain, **console))
    return raw.getvalue().decode(encoding)


def rows(text: str) -> list[str]:
    """The rows of the time line."""
    lines = text.splitlines()
    begin = next(index for index, line in enumerate(lines) if re.match(r" +0 s ", line))
    end = next(index for index, line in enumerate(lines) if "running" in line and "queued  " in line)
    return lines[begin + 1 : end]


def times(first: float, last: float) -> dict[str, Any]:
    return {"started": NOON + timedelta(seconds=first), "ended": NOON + timedelta(seconds=last)}


TWO = facts_of(
    [
        ran("etl.eu", second=1, seconds=1.0, cpu_seconds=0.5, peak_memory_bytes=147_000_000),
        ran("etl.us", second=3, state="failed", error="ValueError: no such file", tries=2),
    ],
    static("eu", "us"),
)
FIRST_TRY = TaskTry(number=1, state="failed", queued=NOON, **times(0, 5))


def test_a_report_has_a_headline_figures_a_time_line_and_errors() -> None:
    lines = shown(TWO).splitlines()

    assert lines[:4] == [
        "pipeline, run the run: success",
        "",
        "etl: 2 of 2 branches done · 1 failed",
        "Work         1.0 s  what 1 of 2 branches took inside their code, added up",
    ]
    assert lines[-4:] == [
        "1 of 2 branches failed:",
        "  us: failed: ValueError: no such file",
        "",
        "To run again what has failed: airflow fanout rerun pipeline 'the run'",
    ]


def test_the_time_line_shows_when_each_was_queued_and_ran() -> None:
    eu, us = rows(shown(TWO))

    bars = [re.search("░*█+", row) for row in (eu, us)]
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


def test_an_earlier_try_is_drawn_and_explained() -> None:
    """Killed after five seconds of work, tried again seven seconds later."""
    queued = NOON + timedelta(seconds=12)
    again = ran("etl.us", second=12, queued=queued, tries=2, earlier=(FIRST_TRY,))

    text = shown(facts_of([ran("etl.eu"), again], static("eu", "us")))

    assert re.search("us +▒{5,}┊█+ ", text)
    assert "░ queued  █ running  ▒ an earlier try  ┊ 7.0 s without any left out" in text
    assert "▒" not in shown(TWO)


def test_an_earlier_try_of_one_of_several_tasks_is_drawn_within_its_branch() -> None:
    before = TaskTry(number=1, state="failed", queued=NOON + timedelta(seconds=4), **times(4, 6))
    group = static("bolt", steps=("parse", "load"))
    runs = [ran("etl.bolt.parse", **times(0, 4)), ran("etl.bolt.load", earlier=(before,), **times(6, 10))]

    (bolt,) = rows(shown(facts_of(runs, group)))

    assert re.search("█▒+█", bolt)


def test_of_a_running_run_the_figures_are_those_so_far() -> None:
    running = ran("etl.us", state="running", ended=None)
    text = shown(facts_of([ran("etl.eu"), running], static("eu", "us"), state="running"))

    assert text.startswith("pipeline, run the run: running: these are the figures so far\n")
    assert re.search(r"^us +█+ +running", text, re.MULTILINE)


def test_a_run_or_a_group_without_branches_is_one_line() -> None:
    assert shown(facts_of([ran("load.each", state="upstream_failed")], mapped())).splitlines()[2:] == [
        "load: not expanded: upstream_failed"
    ]
    assert shown(facts_of([ran("lone")])) == (
        "pipeline, run the run: nothing is fanned out in it that a fan-in collects, so there is no report\n"
    )


def test_what_a_batch_without_a_record_stands_for_and_the_slowest_items_are_named() -> None:
    killed = [ran("docs.each", n, state="failed", record={}) for n in range(1, 30)]

    text = shown(facts_of([batch(0, "SS", seconds=[0.5, 1.0]), *killed], batched(count=60)))

    assert "\nSlowest items:\n  docs_1: 1.0 s\n  docs_0: 0.5 s\n58 of 60 items failed:\n" in text
    listed = ", ".join(f"docs batch {n}" for n in range(1, 6))
    assert re.search(f"\n  58 × failed: no exception was recorded.* \\({listed} and 48 more\\)\n", text)


def test_of_a_single_batch_without_a_record_its_items_are_counted() -> None:
    killed = ran("docs.each", 1, state="failed", record={})

    text = shown(facts_of([batch(0, "SS"), killed], batched(count=4)))

    assert "\n  docs batch 1: 2 items: failed: no exception was recorded" in text


def test_branches_that_failed_alike_are_one_line() -> None:
    failed = [ran(f"etl.b_{n}", state="failed", error=f"E: row {n} is bad") for n in range(16)]
    odd = ran("etl.odd", state="failed", error="F: " + "x" * 600)

    lines = shown(facts_of([*failed, odd], static(*(f"b_{n}" for n in range(16)), "odd"))).splitlines()

    at = lines.index("17 of 17 branches failed:")
    assert lines[at + 1] == "  16 × failed: E: row 0 is bad (b_0, b_1, b_2, b_3, b_4 and 11 more)"
    assert lines[at + 2].startswith("  odd: failed: F: xxx")
    assert lines[at + 2].endswith("…")


def test_names_and_errors_are_short_lines_and_give_the_terminal_no_commands() -> None:
    names = ["\x1b[31mred", "x" * 411, "plain"]
    errors = ["E: \x1b[2J", "E: x", "E: a\n  [bold]b"]
    failed = [
        ran("load.each", n, "failed", error=error, name=name)
        for n, (name, error) in enumerate(zip(names, errors, strict=True))
    ]

    text = shown(facts_of(failed, mapped(), yielded={"load": names}))

    assert "  \\x1b[31mred: failed: E: \\x1b[2J\n" in text
    assert "  plain: failed: E: a [bold]b\n" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 100


def test_of_many_branches_the_failed_and_the_slowest_have_a_row() -> None:
    many = [
        ran("load.each", n, state="failed" if n == 50 else "success", **times(0, 1 if n < 90 else 5))
        for n in range(100)
    ]

    text = shown(facts_of(many, mapped()))

    names = [row.split()[0] for row in rows(text)]
    assert len(names) == MOST_ROWS
    assert {"load_50", *(f"load_{n}" for n in range(90, 100))} <= set(names)
    assert names == sorted(names, key=lambda name: int(name.removeprefix("load_")))
    assert "80 more branches, neither slower nor failed" in text


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_the_time_line_fits_its_terminal(width: int) -> None:
    names = [f"a_branch_whose_name_is_as_long_as_a_name_may_become_in_practice_{n}" for n in range(3)]
    record: dict[str, Any] = {"seconds": 72.0, "cpu_seconds": 3700.0, "peak_memory_bytes": 10**10}
    facts = facts_of([ran(f"etl.{name}", second=n, **record) for n, name in enumerate(names)], static(*names))

    found = rows(shown(facts, width=width))

    assert len(found) == 3
    if width >= 80:
        assert all(cell_len(row.rstrip()) <= width for row in found)
        assert [row.split("…")[1].split()[0][-2:] for row in found] == ["_0", "_1", "_2"]


def test_a_terminal_without_the_characters_gets_others_in_the_same_places() -> None:
    again = ran("etl.ünlü", queued=NOON + timedelta(seconds=12), second=12, earlier=(FIRST_TRY,))
    facts = facts_of([ran("etl.eu", seconds=0.5), again], static("eu", "ünlü"))

    plain, whole = shown(facts, encoding="ascii"), shown(facts)

    assert plain == whole.translate(str.maketrans("░█▒┊–×·→ü", ".#=:-x|>?"))


def test_a_pipe_gets_no_colours_and_a_terminal_does() -> None:
    assert "\x1b" not in shown(TWO)
    assert "\x1b" in shown(TWO, force_terminal=True, color_system="standard")


def test_advice_is_given() -> None:
    capacity = Capacity(declared=2, effective=1, limit=Limit(name="pool", slots=1, where="small"))

    assert "\n→ 2 branches, at most 1 at once: pool of small is 1." in shown(TWO, capacity)
