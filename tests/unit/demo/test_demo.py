from __future__ import annotations

import argparse
import asyncio
import json
import socket
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from airflow.cli.cli_config import GroupCommand

from airflow_fanout.cli.commands import branch_count, get_fanout_cli_commands, port_number, wait_seconds
from airflow_fanout.demo.demo import DemoError, example_file, run_demo, run_timeout
from airflow_fanout.demo.embedded import EmbeddedAirflow, isolated_environment
from airflow_fanout.demo.loopback import LoopbackOnly


def parse(*arguments: str) -> argparse.Namespace:
    (group,) = get_fanout_cli_commands()
    assert isinstance(group, GroupCommand)
    demo = next(command for command in group.subcommands if command.name == "demo")
    parser = argparse.ArgumentParser()
    for argument in demo.args:
        argument.add_to_parser(parser)
    return parser.parse_args(arguments)


def environment(inherited: dict[str, str], extra: dict[str, str] | None = None) -> dict[str, str]:
    return isolated_environment(inherited, home=Path("/home"), extra=extra or {})


def test_the_demo_has_eight_branches_of_three_seconds_by_default() -> None:
    args = parse()

    assert (args.count, args.work_seconds, args.keep, args.port) == (8, 3.0, False, None)
    assert example_file(args.dag).stem == "fan_out_fan_in_pipeline"


@pytest.mark.parametrize(
    ("read", "texts"),
    [
        pytest.param(branch_count, ("0", "-1", "201", "2.5", "eight", ""), id="count"),
        pytest.param(wait_seconds, ("-1", "601", "nan", "inf", "long"), id="work-seconds"),
        pytest.param(port_number, ("0", "65536", "-1", "http"), id="port"),
    ],
)
def test_an_unusable_argument_is_refused_with_what_was_expected(read: Any, texts: tuple[str, ...]) -> None:
    for text in texts:
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


@pytest.mark.parametrize(
    ("dag_id", "file"),
    [
        ("fan_out_fan_in_chosen_count", "fan_out_fan_in_pipeline.py"),
        ("document_analysis", "document_analysis.py"),
    ],
)
def test_a_dag_is_found_whatever_the_name_of_its_file(dag_id: str, file: str) -> None:
    assert example_file(dag_id).name == file


def test_a_dag_that_only_serves_for_comparison_is_no_example() -> None:
    with pytest.raises(DemoError, match="no example Dag 'document_analysis_sequential'"):
        example_file("document_analysis_sequential")


def test_a_problem_is_one_line_on_standard_error_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    code = run_demo(parse("--dag", "nope"))

    captured = capsys.readouterr()
    assert (code, captured.out) == (1, "")
    assert captured.err.startswith("airflow fanout demo: no example Dag 'nope'; there are: ")
    assert captured.err.count("\n") == 1


def test_a_taken_port_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        code = run_demo(parse("--port", str(port)))

    captured = capsys.readouterr()
    assert (code, captured.out) == (1, "")
    assert f"Port {port} is in use" in captured.err


def test_the_wait_for_a_run_grows_with_the_rounds_that_the_branches_need() -> None:
    assert run_timeout(33, 100) - run_timeout(32, 100) > 100


@pytest.mark.parametrize(
    "name", ["AIRFLOW__CORE__EXECUTOR", "AIRFLOW_CONFIG", "AIRFLOW_CONN_DB", "AIRFLOW_VAR_X", "_AIRFLOW_X"]
)
def test_nothing_of_the_callers_airflow_reaches_the_embedded_one(name: str) -> None:
    made = environment({name: "theirs", "PATH": "/bin"})

    assert made.get(name) != "theirs"
    assert made["PATH"] == "/bin"


def test_variables_of_the_caller_replace_those_that_are_set() -> None:
    made = environment({}, {"AIRFLOW__CORE__LOAD_EXAMPLES": "True", "OWN": "1"})

    assert (made["AIRFLOW__CORE__LOAD_EXAMPLES"], made["OWN"]) == ("True", "1")


def test_a_proxy_is_kept_for_all_but_loopback() -> None:
    made = environment({"HTTP_PROXY": "http://proxy", "no_proxy": "intranet"})

    assert made["HTTP_PROXY"] == "http://proxy"
    assert made["no_proxy"] == made["NO_PROXY"] == "intranet,127.0.0.1,localhost"


class TestWhoGetsIn:
    @pytest.fixture
    def airflow(self, tmp_path: Path) -> EmbeddedAirflow:
        return EmbeddedAirflow(dag_files=[], env={}, home=tmp_path)

    def test_only_who_has_the_password_does(self, airflow: EmbeddedAirflow) -> None:
        environment = airflow.environment("api-server")

        assert environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "False"
        assert airflow.password not in {None, "", *environment.values()}

    def test_the_password_is_another_each_time_and_nobody_else_can_read_it(
        self, airflow: EmbeddedAirflow, tmp_path: Path
    ) -> None:
        airflow._write_own_files()

        other = EmbeddedAirflow(dag_files=[], env={}, home=tmp_path)
        file = Path(airflow.environment("api-server")["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
        assert json.loads(file.read_text()) == {"admin": airflow.password}
        assert file.stat().st_mode & 0o077 == 0
        assert airflow.password != other.password

    @pytest.mark.parametrize(
        ("hosts", "status"),
        [
            pytest.param(["127.0.0.1:8080"], 200, id="address"),
            pytest.param(["localhost"], 200, id="name"),
            pytest.param(["LOCALHOST:1"], 200, id="capitals"),
            pytest.param(["evil.example:8080"], 421, id="another-name"),
            pytest.param(["127.0.0.1.evil.example"], 421, id="a-name-that-begins-so"),
            pytest.param([""], 421, id="empty"),
            pytest.param([], 421, id="none"),
            pytest.param(["localhost", "evil.example"], 421, id="two"),
        ],
    )
    def test_it_answers_under_no_other_name(self, hosts: list[str], status: int) -> None:
        sent: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "headers": [(b"host", host.encode()) for host in hosts]}
        asyncio.run(LoopbackOnly(app)(scope, mock.AsyncMock(), send))

        assert sent[0]["status"] == status
