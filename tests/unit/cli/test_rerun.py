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
from airflow_fanout.metadata.clearing import clear
from airflow_fanout.reports.branches import UnknownGroupError
from airflow_fanout.reports.rerun import BranchRerun, Clearing, GroupRerun, RerunPlan
from airflow_fanout.reports.runs import BranchRun, GroupRun, TaskRun

if TYPE_CHECKING:
    from collections.abc import Iterable


def branch(name: str, state: str = "failed", **more: Any) -> BranchRerun:
    its = (TaskRun(task_id=f"group.{name}", state=state),)
    return BranchRerun(branch=BranchRun(name=name, state=state, task_runs=its, **more), task_runs=its)


LACKING = BranchRerun(branch=BranchRun(name="b", state="missing"), task_runs=())


def plan(branches: Iterable[BranchRerun], **more: Any) -> RerunPlan:
    branches = tuple(branches)
    run = GroupRun(title="group", group=None, branches=tuple(again.branch for again in branches))
    group = GroupRerun(run=run, branches=branches, fan_ins=(TaskRun(task_id="collect", state="failed"),))
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
        ("arguments", "reason"),
        [
            pytest.param([], "it can't ask without a terminal", id="no terminal"),
            pytest.param(["--output", "json"], "with --output json it does not ask", id="json"),
        ],
    )
    def test_where_it_can_not_ask_it_says_so_and_clears_nothing(
        self, commanding: Commanding, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            commanding(FAILED, *arguments)

        assert capsys.readouterr().err == (
            f"airflow fanout rerun: {reason}: give --yes to clear, or --dry-run to clear nothing\n"
        )
        assert commanding.causes == []

    @pytest.mark.parametrize("arguments", [[], ["--output", "json"]], ids=["no terminal", "json"])
    def test_where_nothing_is_to_clear_it_needs_not_ask(
        self, commanding: Commanding, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        commanding(NOTHING, *arguments)

        assert capsys.readouterr().err == ""

    def test_it_says_what_comes_next(
        self, commanding: Commanding, capsys: pytest.CaptureFixture[str]
    ) -> None:
        commanding(FAILED, "--yes")
        commanding(FAILED, "--yes", paused=True)
        commanding(FAILED, "--dry-run")

        lines = capsys.readouterr().out.splitlines()
        for line in (
            "Cleared 2 task instances.",
            "The scheduler runs them now. To see it: airflow fanout report a_dag a_run",
            "The Dag is paused. To let them run: airflow dags unpause a_dag",
            "Nothing was cleared. Without --dry-run it would be 2 task instances.",
        ):
            assert line in lines

    def test_json_is_all_of_its_output(
        self, commanding: Commanding, capsys: pytest.CaptureFixture[str]
    ) -> None:
        commanding(WITH_CAUSE, "--yes", "--output", "json")

        data = json.loads(capsys.readouterr().out)
        assert data["causes"] == [{"task_id": "source", "map_index": -1, "state": "failed"}]
        assert [task["task_id"] for task in data["cleared"]] == ["source", "group.a", "collect"]

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
            [branch("a", error="ValueError: why"), branch("b", "skipped", is_stopped=True)],
            downstream=(TaskRun(task_id="publish", state="upstream_failed"),),
            notes=("group: a note",),
        )

        assert list(rerun_command.lines(found)) == [
            "Run a_run of a_dag, failed",
            "",
            "group: 2 of 2 branches run again",
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
        branches = [branch(f"b_{index}", "failed" if index % 2 else "skipped") for index in range(1500)]

        lines = list(rerun_command.lines(plan(branches)))

        assert len(lines) < 30
        assert "group: 1,500 of 1,500 branches run again" in lines
        assert "  and 1,480 more: 740 failed, 740 skipped" in lines

    def test_a_long_name_is_cut_in_its_middle(self) -> None:
        name = "a" * 200 + "b" * 211
        also = TaskRun(task_id=name, state="failed")

        lines = list(rerun_command.lines(plan([branch(name, error="E: " + name)], downstream=(also,))))

        assert max(map(len, lines)) < 200
        assert f"{'a' * 39}…{'b' * 20}  failed; E: aaa" in lines[3]

    @pytest.mark.parametrize(
        ("found", "line"),
        [
            pytest.param(WITH_CAUSE, "The cause lies before the branches: source (failed)", id="a cause"),
            pytest.param(plan([]), "group: only the fan-in runs again", id="a fan-in"),
            pytest.param(FAILED, "group: 1 of 1 branch runs again", id="one branch"),
            pytest.param(
                plan([branch("a"), LACKING]),
                "  b  missing; Airflow makes its task instance",
                id="a branch without an instance",
            ),
            pytest.param(NOTHING, "Nothing to run again: no branch and no fan-in failed.", id="nothing"),
        ],
    )
    def test_they_say_what_there_is_beside_branches(self, found: RerunPlan, line: str) -> None:
        assert line in list(rerun_command.lines(found))
