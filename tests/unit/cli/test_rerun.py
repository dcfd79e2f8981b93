from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, create_autospec

import pytest
from airflow.cli.cli_config import GroupCommand

from airflow_fanout.cli import rerun as rerun_command
from airflow_fanout.cli.commands import get_fanout_cli_commands
from airflow_fanout.metadata.clearing import Clearing, clear
from airflow_fanout.reports.branches import UnknownGroupError
from airflow_fanout.reports.rerun import BranchRerun, GroupRerun, RerunPlan
from airflow_fanout.reports.runs import BranchRun, TaskRun
from airflow_fanout.reports.timing import BranchTiming

if TYPE_CHECKING:
    from collections.abc import Iterable


def branch(name: str, state: str = "failed", **more: Any) -> BranchRerun:
    its = (TaskRun(task_id=f"group.{name}", state=state),)
    timing = BranchTiming(name=name, state=state, queued=None, started=None, ended=None)
    return BranchRerun(
        branch=BranchRun(name=name, state=state, timing=timing, task_runs=its, **more), task_runs=its
    )


def plan(branches: Iterable[BranchRerun], **more: Any) -> RerunPlan:
    group = GroupRerun(
        title="group",
        total=1000,
        branches=tuple(branches),
        fan_ins=(TaskRun(task_id="collect", state="failed"),),
    )
    return RerunPlan(dag_id="a_dag", run_id="a_run", run_state="failed", groups=(group,), **more)


FAILED = plan([branch("a")])
WITH_CAUSE = plan([branch("a", "upstream_failed")], causes=(TaskRun(task_id="source", state="failed"),))
NOTHING = RerunPlan(dag_id="a_dag", run_id="a_run", run_state="success")


def parse(*arguments: str) -> argparse.Namespace:
    (group,) = get_fanout_cli_commands()
    assert isinstance(group, GroupCommand)
    rerun = next(command for command in group.subcommands if command.name == "rerun")
    parser = argparse.ArgumentParser()
    for argument in rerun.args:
        argument.add_to_parser(parser)
    return parser.parse_args(["a_dag", "a_run", *arguments])


class Commanding:
    """The command, on a plan instead of a database, with a person who answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.cleared = create_autospec(clear)

    def __call__(
        self, found: RerunPlan, *arguments: str, answers: Iterable[str] = (), paused: bool = False
    ) -> Any:
        replies = iter(answers)
        self.cleared.side_effect = lambda plan, *, causes, session: Clearing(
            cleared=plan.with_causes if causes else plan.task_runs, changed=(), is_paused=paused
        )
        self._monkeypatch.setattr(rerun_command, "metadata_session", lambda command: nullcontext())
        self._monkeypatch.setattr(rerun_command, "find_plan", Mock(return_value=found))
        self._monkeypatch.setattr(rerun_command, "clear", self.cleared)
        self._monkeypatch.setattr("sys.stdin.isatty", lambda: answers != (), raising=False)
        self._monkeypatch.setattr("builtins.input", lambda question: next(replies))
        rerun_command.command.__wrapped__(parse(*arguments))

    @property
    def causes(self) -> list[bool]:
        """Whether the causes were to be cleared, at each clearing."""
        return [call.kwargs["causes"] for call in self.cleared.call_args_list]


@pytest.fixture
def commanding(monkeypatch: pytest.MonkeyPatch) -> Commanding:
    return Commanding(monkeypatch)


class TestCommand:
    @pytest.mark.parametrize(
        ("found", "arguments", "answers", "causes"),
        [
            pytest.param(FAILED, ["--yes"], (), [False], id="yes"),
            pytest.param(WITH_CAUSE, ["--yes"], (), [True], id="yes, with a cause"),
            pytest.param(FAILED, [], ["y"], [False], id="agreed"),
            pytest.param(WITH_CAUSE, [], ["y", "Yes"], [True], id="agreed to the cause too"),
            pytest.param(WITH_CAUSE, [], ["y", ""], [False], id="not to the cause"),
            pytest.param(FAILED, ["--dry-run"], (), [], id="dry run"),
            pytest.param(FAILED, ["--dry-run", "--yes"], (), [], id="dry run, whatever else"),
            pytest.param(NOTHING, ["--yes"], (), [], id="nothing to do"),
        ],
    )
    def test_what_it_clears(
        self,
        commanding: Commanding,
        found: RerunPlan,
        arguments: list[str],
        answers: Iterable[str],
        causes: list[bool],
    ) -> None:
        commanding(found, *arguments, answers=answers)

        assert commanding.causes == causes

    @pytest.mark.parametrize("answer", ["", "n", "no", "what?"])
    def test_anything_but_yes_clears_nothing(self, commanding: Commanding, answer: str) -> None:
        with pytest.raises(SystemExit, match="1"):
            commanding(FAILED, answers=[answer])

        assert commanding.causes == []

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            pytest.param([], "no terminal to ask at", id="no terminal"),
            pytest.param(["--output", "json"], "--output json", id="json"),
        ],
    )
    def test_where_it_can_not_ask_it_says_so_and_clears_nothing(
        self, commanding: Commanding, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            commanding(FAILED, *arguments)

        assert capsys.readouterr().err == (
            f"airflow fanout rerun: {why}: give --yes to clear without a question, or --dry-run to clear "
            "nothing\n"
        )
        assert commanding.causes == []

    def test_a_paused_dag_is_told(self, commanding: Commanding, capsys: pytest.CaptureFixture[str]) -> None:
        commanding(FAILED, "--yes", paused=True)

        last = capsys.readouterr().out.splitlines()[-1]
        assert last == "The Dag is paused, nothing runs until: airflow dags unpause a_dag"

    def test_json_is_the_only_thing_said(
        self, commanding: Commanding, capsys: pytest.CaptureFixture[str]
    ) -> None:
        commanding(WITH_CAUSE, "--yes", "--output", "json")

        said = json.loads(capsys.readouterr().out)
        assert said["causes"] == [{"task_id": "source", "map_index": -1, "state": "failed"}]
        assert [each["task_id"] for each in said["cleared"]] == ["source", "group.a", "collect"]

    def test_a_group_that_is_not_there_ends_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("airflow.utils.session.create_session", nullcontext)
        monkeypatch.setattr(rerun_command, "find_plan", Mock(side_effect=UnknownGroupError("no such group")))

        with pytest.raises(SystemExit, match="2"):
            rerun_command.command.__wrapped__(parse("--yes"))

        assert capsys.readouterr().err == "airflow fanout rerun: no such group\n"


class TestLines:
    def test_they_name_branches_fan_ins_and_what_comes_after(self) -> None:
        found = plan(
            [branch("a", error="ValueError: why\nmore"), branch("b", "skipped", is_stopped=True)],
            downstream=(TaskRun(task_id="publish", state="upstream_failed"),),
            notes=("group: a note",),
        )

        assert list(rerun_command.lines(found)) == [
            "Run a_run of a_dag, failed",
            "",
            "group: 2 of 1,000 branches run again",
            "  a  failed; ValueError: why",
            "  b  stopped",
            "  fan-in: collect (failed)",
            "",
            "Downstream of the fan-ins: publish (upstream_failed)",
            "",
            "group: a note",
            "",
        ]

    def test_of_many_branches_it_names_some_and_counts_the_others(self) -> None:
        its = [branch(f"b_{index}", "failed" if index % 2 else "skipped") for index in range(500)]

        said = list(rerun_command.lines(plan(its)))

        assert len(said) < 30
        assert "  and 480 more: 240 failed, 240 skipped" in said

    def test_a_cause_is_named(self) -> None:
        said = list(rerun_command.lines(WITH_CAUSE))

        assert "The cause lies before the branches: source (failed)" in said

    def test_where_there_is_nothing_to_do_they_say_so(self) -> None:
        assert list(rerun_command.lines(NOTHING)) == [
            "Run a_run of a_dag, success",
            "Nothing to run again: no branch and no fan-in is without success.",
        ]
