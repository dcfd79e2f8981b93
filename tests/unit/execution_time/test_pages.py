"""Mapped instances that start again while a fan-in reads them in pages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_fanout.exceptions import BranchesRunningError, UnreadableValueError
from airflow_fanout.execution_time.ledger import collect, refuse_cleared
from airflow_fanout.execution_time.results import FanInResults
from airflow_fanout.execution_time.xcom import NOTHING
from airflow_fanout.rules.names import instance_name
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE
from tests.unit.fake_run import FakeRun, source_of
from tests.unit.run_facts import mapped

PAGE = 3
TASK = "g.each"
NEVER = 10_000
"""Requests after which nobody asks any more."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """
    An instance starts again after a number of requests.

    :param lasts: How many more it runs for.
    :param has_value: Whether it pushes a value this time.
    """

    after: int
    index: int
    lasts: int
    has_value: bool


@dataclass
class MovingRun(FakeRun):
    """
    A run of a mapped task whose instances start again while it is read.

    :param left: Every value that an instance has left, by its index; NOTHING for none.
    """

    starts: list[Start] = field(default_factory=list)
    is_ours: bool = False
    left: dict[int, list[Any]] = field(default_factory=dict)
    began: list[Start] = field(default_factory=list)
    requests_seen: int = 0

    def end(self, index: int, value: Any, duration: float = 1.0) -> None:
        """Let an instance succeed; it leaves a value, unless it is NOTHING."""
        record = {"state": "success", "has_value": value is not NOTHING, "map_index": index}
        self.add(
            TASK, value=value, map_index=index, record=record if self.is_ours else None, duration=duration
        )
        self.left.setdefault(index, []).append(value)

    def _note(self, method: str, *arguments: Any) -> None:
        super()._note(method, *arguments)
        self.requests_seen += 1
        for start in self.starts:
            if start.after == self.requests_seen and (TASK, start.index) in self.instances:
                del self.instances[TASK, start.index]
                for key in (RETURN_VALUE, RECORD_KEY):
                    self.xcoms.pop((TASK, start.index, key), None)
                self.unfinished += 1
                self.began.append(start)
            if start in self.began and start.after + start.lasts == self.requests_seen:
                self.unfinished -= 1
                value = [start.index, self.requests_seen] if start.has_value else NOTHING
                self.end(start.index, value, duration=2.0 + self.requests_seen)


@st.composite
def moving_runs(draw: st.DrawFn) -> MovingRun:
    count = draw(st.integers(1, 3 * PAGE + 1))
    starts = st.builds(
        Start,
        after=st.integers(1, 8),
        index=st.integers(0, count - 1),
        lasts=st.integers(0, 3) | st.just(NEVER),
        has_value=st.booleans(),
    )
    run = MovingRun(
        starts=draw(st.lists(starts, max_size=3, unique_by=lambda start: start.index)),
        is_ours=draw(st.booleans()),
    )
    for index in range(count):
        run.end(index, [index, 0])
    for index in draw(st.sets(st.integers(0, count - 1), max_size=1)):
        error = ValueError("no such class")
        run.xcoms[TASK, index, RETURN_VALUE] = UnreadableValueError(TASK, cause=error)
    return run


def read(run: MovingRun) -> dict[str, Any]:
    """Collect a run as a fan-in does, and then read every value."""
    source = source_of(TASK, is_ours=run.is_ours, is_mapped=True)
    if run.is_ours:
        source = replace(source, group=mapped(TASK, count=len(run.instances), names=None))
    room = "airflow_fanout.execution_time"
    with mock.patch(f"{room}.ledger.PAGE_SIZE", PAGE), mock.patch(f"{room}.mapped.PAGE_SIZE", PAGE):
        states = run.states()
        pages = collect(run, states, [source], RETURN_VALUE)  # type: ignore[arg-type]
        results = FanInResults(pages)
        if run.found_nothing or "missing" in results.states():
            refuse_cleared(run, states, pages)  # type: ignore[arg-type]
        return {name: outcome.value for name, outcome in results.outcomes.items()}


@settings(max_examples=200)
@given(run=moving_runs())
def test_no_value_is_anothers_and_none_is_lost(run: MovingRun) -> None:
    names = [f"load_{index}" if run.is_ours else instance_name(TASK, index) for index in range(len(run.left))]
    try:
        values = read(run)
    except BranchesRunningError:
        assert run.began, "nothing had started again"
        return
    except UnreadableValueError:
        return
    assert list(values) == names
    for index, value in enumerate(values.values()):
        assert value in [None if left is NOTHING else left for left in run.left[index]]
