from __future__ import annotations

import argparse
import io
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.cli.cli_config import GroupCommand
from rich.console import Console

from airflow_fanout.cli.commands import branch_count, get_fanout_cli_commands, port_number, wait_seconds
from airflow_fanout.demo import view as demo_view
from airflow_fanout.demo.demo import DemoError, DemoOptions, example_file, run_demo
from airflow_fanout.demo.embedded import isolated_environment
from airflow_fanout.reports.timing import BranchTiming
from airflow_fanout.rules.records import BatchRecord

pytestmark = pytest.mark.unit

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def branch(
    name: str, state: str, *, started: float | None = None, ended: float | None = None
) -> BranchTiming:
    def moment(seconds: float | None) -> datetime | None:
        return None if seconds is None else NOON + timedelta(seconds=seconds)

    return BranchTiming(name=name, state=state, queued=NOON, started=moment(started), ended=moment(ended))


def parse(*arguments: str) -> argparse.Namespace:
    (group,) = get_fanout_cli_commands()
    assert isinstance(group, GroupCommand)
    demo = next(command for command in group.subcommands if command.name == "demo")
    parser = argparse.ArgumentParser()
    for argument in demo.args:
        argument.add_to_parser(parser)
    return parser.parse_args(arguments)


def environment(inherited: dict[str, str], extra: dict[str, str] | None = None) -> dict[str, str]:
    return isolated_environment(
        inherited,
        home=Path("/home"),
        extra=extra or {},
    )


def test_the_demo_has_eight_branches_of_three_seconds_unless_told() -> None:
    args = parse()

    assert (args.count, args.work_seconds, args.keep, args.port) == (8, 3.0, False, None)
    assert args.dag == "fan_out_fan_in_pipeline"


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *(
            pytest.param(branch_count, text, id=f"count-{text}")
            for text in ("0", "-1", "201", "2.5", "eight", "")
        ),
        *(
            pytest.param(wait_seconds, text, id=f"wait-{text}")
            for text in ("-1", "601", "nan", "inf", "long")
        ),
        *(pytest.param(port_number, text, id=f"port-{text}") for text in ("0", "65536", "-1", "http")),
    ],
)
def test_an_unusable_argument_is_refused_with_what_was_expected(read: Any, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected .* to .*, not"):
        read(text)


def test_a_wrong_argument_ends_with_exit_code_2() -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--count", "0")

    assert ended.value.code == 2


def test_an_unknown_dag_is_refused_with_those_there_are(tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "_shared.py", "notes.txt"):
        (tmp_path / name).touch()

    with pytest.raises(DemoError, match=r"no example Dag 'c'; there are: a, b$"):
        example_file("c", tmp_path)


def test_the_default_dag_is_among_the_examples() -> None:
    assert example_file(parse().dag).is_file()


@pytest.mark.parametrize(
    ("dag_id", "file"),
    [
        ("fan_out_fan_in_pipeline", "fan_out_fan_in_pipeline.py"),
        ("fan_out_fan_in_chosen_count", "fan_out_fan_in_pipeline.py"),
        ("document_analysis", "document_analysis.py"),
    ],
)
def test_a_dag_is_found_whatever_its_file_is_called(dag_id: str, file: str) -> None:
    assert example_file(dag_id).name == file


def test_what_only_serves_for_comparison_is_no_example() -> None:
    with pytest.raises(DemoError, match="no example Dag 'document_analysis_sequential'"):
        example_file("document_analysis_sequential")


def test_a_problem_is_one_line_on_standard_error_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    code = run_demo(DemoOptions(dag_id="nope", count=1, work_seconds=0))

    captured = capsys.readouterr()
    assert code == 1
    assert captured.out == ""
    assert captured.err.startswith("airflow fanout demo: no example Dag 'nope'; there are: ")
    assert captured.err.count("\n") == 1


def test_a_taken_port_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        options = DemoOptions(dag_id="fan_out_fan_in_pipeline", count=1, work_seconds=0, port=port)

        assert run_demo(options) == 1

    assert f"Port {port} is in use" in capsys.readouterr().err

def test_the_wait_for_a_run_grows_with_the_rounds_that_the_branches_need() -> None:
    one_round = DemoOptions(dag_id="any", count=32, work_seconds=100)
    two_rounds = DemoOptions(dag_id="any", count=33, work_seconds=100)

    assert two_rounds.run_timeout - one_round.run_timeout > 100


@pytest.mark.parametrize(
    "name", ["AIRFLOW__CORE__EXECUTOR", "AIRFLOW_CONFIG", "AIRFLOW_CONN_DB", "AIRFLOW_VAR_X", "_AIRFLOW_X"]
)
def test_nothing_of_the_callers_airflow_reaches_the_embedded_one(name: str) -> None:
    made = environment({name: "theirs", "PATH": "/bin"})

    assert made.get(name) != "theirs"
    assert made["PATH"] == "/bin"


def test_what_the_caller_adds_replaces_what_is_set() -> None:
    made = environment({}, {"AIRFLOW__CORE__LOAD_EXAMPLES": "True", "OWN": "1"})

    assert (made["AIRFLOW__CORE__LOAD_EXAMPLES"], made["OWN"]) == ("True", "1")


def test_a_proxy_is_kept_for_all_but_loopback() -> None:
    made = environment({"HTTP_PROXY": "http://proxy", "no_proxy": "intranet"})

    assert made["HTTP_PROXY"] == "http://proxy"
    assert made["no_proxy"] == made["NO_PROXY"] == "intranet,127.0.0.1,localhost"


def test_only_what_changed_is_said() -> None:
    said = {"p_0": "running", "p_1": "running"}
    now = [
        branch("p_0", "success", started=0, ended=3),
        branch("p_1", "running", started=0),
        branch("p_2", "queued"),
        branch("p_3", "waiting"),
    ]

    assert demo_view.lines_of_change(said, now) == ["p_0: success after 3.0 s", "p_2: queued"]


def test_what_else_there_is_to_say_of_a_branch_ends_its_line() -> None:
    now = [branch("docs batch 0", "success", started=0, ended=3), branch("docs batch 1", "running")]

    lines = demo_view.lines_of_change({}, now, {"docs batch 0": "9 of 10 items done"})

    assert lines == ["docs batch 0: success after 3.0 s, 9 of 10 items done", "docs batch 1: running"]


def test_many_branches_are_counted_instead_of_listed() -> None:
    now = [branch(f"p_{index}", "running" if index < 5 else "queued") for index in range(21)]

    assert demo_view.lines_of_change({}, now) == ["21 branches: 16 queued, 5 running"]


def test_the_table_counts_a_running_branchs_seconds_up_to_now() -> None:
    console = Console(file=io.StringIO(), width=60)
    console.print(
        demo_view.branch_table([branch("p_0", "running", started=1)], NOON + timedelta(seconds=3.5))
    )

    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().split() == ["p_0", "running", "2.5", "s"]


def test_a_success_names_what_it_did_without() -> None:
    problems = [{"name": f"docs_{index}", "state": "failed", "error": "ValueError: no"} for index in range(7)]

    text = demo_view.problems_text({"expected": 9, "failed": 7, "missing": 0, "problems": problems})

    assert text is not None
    first, *named, last = text.splitlines()
    assert first == "without 7 of 9:"
    assert named == [f"  docs_{index}: ValueError: no" for index in range(5)]
    assert last == "  and 2 more"


@pytest.mark.parametrize("report", [None, {"expected": 1, "failed": 0, "missing": 0, "problems": []}])
def test_a_whole_success_did_without_nothing(report: dict[str, Any] | None) -> None:
    assert demo_view.problems_text(report) is None


ONE_BY_ONE = [
    branch("topics", "success", started=0, ended=4),
    branch("entities", "success", started=4, ended=10),
]


def test_both_ways_are_shown_side_by_side() -> None:
    at_once = [
        branch("topics", "success", started=0, ended=4.5),
        branch("entities", "success", started=0, ended=6.5),
    ]

    text = demo_view.comparison(at_once, ONE_BY_ONE, cores=2)

    lines = {line.split()[0]: line.split() for line in text.splitlines()}
    assert lines["topics"] == ["topics", "4.5", "s", "4.0", "s"]
    assert lines["entities"] == ["entities", "6.5", "s", "6.0", "s"]
    assert lines["Sum"] == ["Sum", "11.0", "s", "10.0", "s"]
    assert lines["Wall"] == ["Wall", "6.5", "s", "10.0", "s"]
    assert text.endswith("In parallel it was 1.5× as fast as one by one.")


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        pytest.param(5, "it was 2.0× as fast as one by one", id="faster"),
        pytest.param(10.1, "it took as long as one by one (1.0×)", id="no-difference"),
        pytest.param(20, "it was slower, 0.5× as fast as one by one", id="slower"),
    ],
)
def test_it_is_said_whichever_way_was_faster(ended: float, said: str) -> None:
    at_once = [
        branch("topics", "success", started=0, ended=2),
        branch("entities", "success", started=0, ended=ended),
    ]

    assert said in demo_view.comparison(at_once, ONE_BY_ONE, cores=2)


@pytest.mark.parametrize(
    ("cores", "said"),
    [
        pytest.param(1, True, id="fewer-cores"),
        pytest.param(2, False, id="enough-cores"),
        pytest.param(None, False, id="unknown"),
    ],
)
def test_shared_cores_are_named_where_there_were_fewer_than_branches(cores: int | None, said: bool) -> None:
    at_once = [
        branch("topics", "success", started=0, ended=2),
        branch("entities", "success", started=0, ended=5),
    ]

    text = demo_view.comparison(at_once, ONE_BY_ONE, cores=cores)

    assert ("2 branches shared 1 core:" in text) is said


def test_a_way_whose_times_are_not_known_has_no_verdict() -> None:
    at_once = [branch("topics", "success", started=0)]

    text = demo_view.comparison(at_once, ONE_BY_ONE, cores=1)

    assert "–" in text
    assert "In parallel it" not in text


def test_a_result_is_shown_by_branch_and_as_it_is() -> None:
    assert demo_view.result_text({"p_0": "[bold]x", "p_1": [1, None]}) == "  p_0: [bold]x\n  p_1: [1, null]"
    assert demo_view.result_text("one text") == "  one text"


@pytest.mark.parametrize(
    ("rendered", "name"),
    [
        pytest.param("eu", "eu", id="named"),
        pytest.param("2", "load.each[2]", id="index-alone"),
        pytest.param(None, "load.each[2]", id="not-yet"),
    ],
)
def test_an_instance_goes_by_the_name_it_gave_itself(rendered: str | None, name: str) -> None:
    instance = {"task_id": "load.each", "map_index": 2, "rendered_map_index": rendered}

    assert demo_view.instance_name(instance) == name


def test_a_retried_branchs_instance_becomes_its_timing() -> None:
    timing = demo_view.timing_of(
        {
            "task_id": "process.each",
            "map_index": 2,
            "state": None,
            "queued_when": "2026-01-01T12:00:00Z",
            "start_date": None,
            "end_date": None,
            "try_number": 2,
        }
    )

    assert (timing.name, timing.state, timing.queued, timing.tries) == ("process.each[2]", "waiting", NOON, 2)


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        pytest.param("SSS", "3 of 3 items done", id="all"),
        pytest.param("SKFXF", "1 of 5 items done, 1 skipped, 2 failed, 1 stopped", id="every-fate"),
    ],
)
def test_it_is_said_how_many_items_of_a_batch_are_done(statuses: str, said: str) -> None:
    unknown: list[float | None] = [None] * len(statuses)
    record = BatchRecord(statuses=statuses, seconds=unknown, cpu_seconds=unknown)

    assert demo_view.items_done(record.to_xcom()) == said


@pytest.mark.parametrize("record", [{"state": "failed", "error": "killed"}, None], ids=["failure", "nothing"])
def test_nothing_is_said_of_a_batch_that_left_no_record_of_its_items(record: dict[str, Any] | None) -> None:
    assert demo_view.items_done(record) is None
