from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder, GetVariable, _RequestFrame, _ResponseFrame

from airflow_fanout.execution_time import transport
from airflow_fanout.execution_time.batch import Batch, Verdict
from airflow_fanout.execution_time.recording import peak_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIME_OUT = 20


def run(size: int, call: Callable[[int], Any], **arguments: Any) -> Batch:
    batch = Batch(size, call, executor="process", **arguments)
    batch.run()
    return batch


def statuses(batch: Batch) -> str:
    return "".join(
        batch.results[index].status if index in batch.results else "." for index in range(batch.size)
    )


def errors(batch: Batch) -> dict[int, str | None]:
    return {index: result.error for index, result in batch.results.items() if result.error is not None}


def values(batch: Batch) -> list[Any]:
    return [batch.results[index].value for index in range(batch.size)]


def wait_for(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + TIME_OUT
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def write_line(path: Path, line: object) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


def kill_itself(signal_number: int) -> None:
    faulthandler.disable()  # pytest's, which would print where
    os.kill(os.getpid(), signal_number)
    time.sleep(TIME_OUT)


def close_all() -> None:
    os.closerange(3, 256)
    time.sleep(TIME_OUT)


DEATHS: dict[str, Callable[[], None]] = {
    "ended with exit code 3": lambda: os._exit(3),
    "ended with exit code 0": lambda: os._exit(0),
    "was killed by SIGKILL": lambda: kill_itself(signal.SIGKILL),
    "was killed by SIGSEGV": lambda: kill_itself(signal.SIGSEGV),
    "was killed by SIGTERM": lambda: kill_itself(signal.SIGTERM),
    "was killed by SIGKILL after it had closed all": close_all,
}


def test_no_signal_interrupts_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, held = os.fork, []

    def noted_fork() -> int:
        held.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return fork()

    monkeypatch.setattr(os, "fork", noted_fork)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    batch = run(1, lambda _: [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())])

    assert {signal.SIGALRM, signal.SIGTERM, signal.SIGINT} <= held[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert values(batch) == [sorted(before)]


class TestDeath:
    @pytest.mark.parametrize("concurrency", [1, 3])
    @pytest.mark.parametrize("end", DEATHS)
    def test_costs_its_own_item_alone_which_runs_twice(
        self, end: str, concurrency: int, tmp_path: Path
    ) -> None:
        def call(index: int) -> int:
            write_line(tmp_path / "ran", index)
            if index == 2:
                DEATHS[end]()
            return index

        troubles: list[tuple[int, str]] = []
        batch = run(
            8, call, concurrency=concurrency, on_trouble=lambda index, text: troubles.append((index, text))
        )

        text = f"its process {end.removesuffix(' after it had closed all')}"
        assert (statuses(batch), errors(batch)) == ("SSFSSSSS", {2: f"{text}, twice"})
        assert batch.results[2].is_final
        assert Counter((tmp_path / "ran").read_text().split()) == {
            str(index): 2 if index == 2 else 1 for index in range(8)
        }
        assert troubles == [
            (2, f"{text}; it runs once more, alone, when all others have ended"),
            (2, f"{text}, twice"),
        ]

    def test_is_no_failure_of_an_item_that_lives_when_it_is_alone(self, tmp_path: Path) -> None:
        def call(index: int) -> list[str]:
            running = tmp_path / f"running-{index}"
            running.touch()
            if index in {1, 2} and not (died := tmp_path / f"died-{index}").exists():
                died.touch()
                running.unlink()
                os._exit(1)
            time.sleep(0.01)
            beside = [path.name for path in tmp_path.glob("running-*") if path != running]
            running.unlink()
            return beside

        batch = run(6, call, concurrency=3)

        assert statuses(batch) == "SSSSSS"
        assert batch.ended[-2:] == [1, 2]
        assert (batch.results[1].value, batch.results[2].value) == ([], [])

    def test_of_two_kinds_is_told_in_order(self, tmp_path: Path) -> None:
        def call(index: int) -> None:
            if (tmp_path / "died").exists():
                kill_itself(signal.SIGKILL)
            (tmp_path / "died").touch()
            os._exit(7)

        error = "its process ended with exit code 7, then was killed by SIGKILL"
        assert errors(run(1, call)) == {0: error}

    def test_of_enough_items_stops_the_rest(self) -> None:
        batch = run(9, lambda index: os._exit(1), failures_left=2)

        assert (statuses(batch), batch.is_stopped) == ("F" * 9, True)
        once, twice = "its process ended with exit code 1", "its process ended with exit code 1, twice"
        assert Counter(errors(batch).values()) == {once: 7, twice: 2}
        assert [batch.results[index].tries for index in range(9)] == [2, 2, *[1] * 7]

    def test_is_one_of_the_tries_of_an_item_that_is_tried_again(self, tmp_path: Path) -> None:
        def call(index: int) -> int:
            tries = len(list(tmp_path.glob(f"{index}-*")))
            (tmp_path / f"{index}-{tries}").touch()
            if index == 1 and tries == 1:
                os._exit(1)
            if index != 2 and tries < 3:
                raise ValueError(tries)
            return tries

        asked = tmp_path / "asked"

        def judge(index: int, error: BaseException, tries: int) -> Verdict:
            write_line(asked, f"{index}:{tries}")
            return Verdict(delay=0.01)

        batch = run(3, call, concurrency=2, judge=judge)

        assert values(batch) == [3, 3, 0]
        assert [batch.results[index].tries for index in range(3)] == [4, 4, 1]
        assert sorted(asked.read_text().split()) == ["0:1", "0:2", "0:3", "1:1", "1:3"]

    def test_of_all_that_could_be_started_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = self.with_processes(2, monkeypatch)
        with pytest.raises(OSError, match="no process can be started for the items: Resource temporarily"):
            batch.run()

        assert statuses(batch) == "...."

    def test_fewer_processes_than_asked_for_do_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = self.with_processes(3, monkeypatch, kills=False)
        batch.run()

        assert statuses(batch) == "SSSS"

    def with_processes(self, most: int, monkeypatch: pytest.MonkeyPatch, *, kills: bool = True) -> Batch:
        """Let no more processes be forked than so many, one of them the fork server."""
        fork, left = os.fork, iter(range(most))

        def fork_some() -> int:
            if next(left, None) is None:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return fork()

        monkeypatch.setattr(os, "fork", fork_some)
        return Batch(4, lambda index: os._exit(1) if kills else index, concurrency=3, executor="process")

    def test_of_what_forks_the_processes_is_an_error(self) -> None:
        def call(index: int) -> None:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(TIME_OUT)

        batch = Batch(4, call, executor="process")
        with pytest.raises(ConnectionError, match="the process that starts those of the items has ended"):
            batch.run()

        assert statuses(batch) == "...."


@dataclass
class Forbidden:
    """Of no module in ``[core] allowed_deserialization_classes``."""


class TestValues:
    def test_what_can_not_be_sent_fails_its_item_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An XCom backend of the author's own may take what Airflow's can't."""
        monkeypatch.setattr(transport, "_has_foreign_backend", lambda: True)
        batch = run(4, lambda index: {1: threading.Lock(), 2: Forbidden()}.get(index, index))

        assert statuses(batch) == "SFFS"
        refusals = errors(batch)
        assert f"{refusals[1]}".startswith(
            "its value can't be sent from its process: TypeError: Cannot serialize object of type"
        )
        assert f"{refusals[2]}".startswith("its value can't be read from its process: ImportError: ")
        assert all(result.seconds is not None for result in batch.results.values())

    def test_large_ones_come_whole(self) -> None:
        assert [len(value) for value in values(run(3, lambda index: "x" * 5_000_000 * index))] == [
            0,
            5_000_000,
            10_000_000,
        ]


class TestSurroundings:
    def test_items_run_at_once_in_the_main_thread_of_few_processes(self, tmp_path: Path) -> None:
        def call(index: int) -> list[Any]:
            (tmp_path / str(os.getpid())).touch()
            wait_for(lambda: len(list(tmp_path.iterdir())) == 3)
            return [os.getpid(), threading.current_thread() is threading.main_thread()]

        ran = values(run(20, call, concurrency=3))

        assert len({pid for pid, _ in ran}) == 3
        assert os.getpid() not in {pid for pid, _ in ran}
        assert all(is_main for _, is_main in ran)

    def test_random_numbers_differ(self, tmp_path: Path) -> None:
        def call(index: int) -> list[float]:
            (tmp_path / str(index)).touch()
            wait_for(lambda: len(list(tmp_path.iterdir())) == 4)
            return [random.random(), float(np.random.rand())]

        drawn = [number for numbers in values(run(4, call, concurrency=4)) for number in numbers]

        assert len(set(drawn)) == 8

    def test_items_may_have_processes_of_their_own(self) -> None:
        def call(index: int) -> list[int]:
            with multiprocessing.get_context("fork").Pool(2) as pool:
                return pool.map(abs, [index, -index])

        assert values(run(3, call, concurrency=2)) == [[0, 0], [1, 1], [2, 2]]

    def test_a_process_that_an_item_forks_does_not_answer_for_it(self) -> None:
        def call(index: int) -> int:
            if not os.fork():
                return -1
            return index

        assert values(run(4, call)) == [0, 1, 2, 3]

    def test_signals_mean_what_they_mean_to_any_process(self) -> None:
        def call(index: int) -> list[int]:
            if index:
                faulthandler.disable()
                ctypes.string_at(0)
            return [number for number in signals if signal.getsignal(number) != signal.SIG_DFL]

        signals = (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGSEGV)
        # Airflow handles a crash so in every process that has read a Dag file.
        before = {number: signal.signal(number, lambda *_: None) for number in signals[1:]}
        try:
            batch = run(2, call)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

        assert batch.results[0].value == []
        assert errors(batch) == {1: "its process was killed by SIGSEGV, twice"}

    def test_what_items_print_is_printed(self, capfd: pytest.CaptureFixture[str]) -> None:
        run(3, lambda index: print(f"item {index}", end=";"), concurrency=3)

        assert sorted(capfd.readouterr().out.split(";")) == ["", "item 0", "item 1", "item 2"]

    def test_cpu_seconds_and_peak_memory_are_the_items(self) -> None:
        def call(index: int) -> None:
            threads = [threading.Thread(target=sum, args=(range(2_000_000),)) for _ in range(index)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        before = peak_memory_bytes()
        batch = run(3, call)
        run(1, lambda index: len(bytearray(b"x") * (before + 100_000_000)))

        # A thread's own clock would show none of it.
        idle, one, two = (batch.results[index].cpu_seconds or 0 for index in range(3))
        assert two > 1.3 * one > 20 * idle
        assert peak_memory_bytes() > before + 100_000_000


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """A supervisor that gives each variable its name as its value, and counts who has asked."""
    task_end, supervisor_end = socket.socketpair()
    decoder, asked = msgspec.msgpack.Decoder(_RequestFrame), Counter[str]()

    def answer() -> None:
        while length := supervisor_end.recv(4, socket.MSG_WAITALL):
            frame = decoder.decode(supervisor_end.recv(int.from_bytes(length), socket.MSG_WAITALL))
            key = (frame.body or {})["key"]
            asked[key.partition("-")[0]] += 1
            body = {"type": "VariableResult", "key": key, "value": key * 1000}
            supervisor_end.sendall(_ResponseFrame(id=frame.id, body=body).as_bytes())

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", CommsDecoder(socket=task_end), raising=False)
    yield asked
    task_end.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    task_end.close()
    supervisor_end.close()


class TestRequests:
    def ask(self, key: str) -> None:
        answer: Any = task_runner.SUPERVISOR_COMMS.send(GetVariable(key=key))
        assert (answer.key, answer.value) == (key, key * 1000)

    def test_of_many_children_at_once_get_each_its_own_answer(self, supervisor: Counter[str]) -> None:
        def call(index: int) -> int:
            for number in range(25):
                self.ask(f"{index}-{number}")
            return os.getpid()

        done = threading.Event()

        def ask_beside() -> None:
            while not done.is_set():
                self.ask("task-")

        batch = Batch(40, call, executor="process", concurrency=8)
        batch.prepare()
        beside = threading.Thread(target=ask_beside, daemon=True)
        beside.start()
        batch.run()
        done.set()
        beside.join(TIME_OUT)

        assert errors(batch) == {}
        assert supervisor.pop("task") > 0
        assert supervisor == {str(index): 25 for index in range(40)}

    @pytest.mark.parametrize("asks", [False, True])
    def test_without_a_supervisor_the_batch_ends(
        self, asks: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        task_end, supervisor_end = socket.socketpair()
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", CommsDecoder(socket=task_end), raising=False)

        def call(index: int) -> None:
            (tmp_path / str(index)).touch()
            if asks and not index:
                self.ask("variable")
            time.sleep(TIME_OUT)

        def end() -> None:
            wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
            supervisor_end.shutdown(socket.SHUT_RDWR)

        batch = Batch(9, call, executor="process", concurrency=2)
        batch.prepare()
        threading.Thread(target=end).start()
        with task_end, supervisor_end, pytest.raises(ConnectionResetError, match="the supervisor has ended"):
            batch.run()

        assert statuses(batch) == "........."

    def test_of_one_that_dies_meanwhile_harm_nobody(self, supervisor: Counter[str]) -> None:
        def call(index: int) -> None:
            if index % 4 == 0:
                threading.Timer(0.001 * index, os._exit, [1]).start()
            for number in range(50):
                self.ask(f"{index}-{number}")

        batch = run(16, call, concurrency=4)

        assert {error for index, error in errors(batch).items() if index % 4} == set()
        self.ask("task-after")


TASK = """
import os, sys, time
from airflow_fanout.execution_time.batch import Batch

def call(index):
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.getpid()} {os.getppid()}\\n")
    while True:
        pass

Batch(9, call, executor="process", concurrency=3).run()
"""


class TestNoChildIsLeft:
    def alive(self, pids: set[int]) -> set[int]:
        states = {}
        for pid in pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return {pid for pid in states if states[pid] != "Z"}

    def pids(self, path: Path) -> set[int]:
        return {int(pid) for pid in path.read_text().split()} if path.exists() else set()

    @pytest.mark.skipif(sys.platform != "linux", reason="the kernel kills them")
    def test_when_the_task_is_killed(self, tmp_path: Path) -> None:
        with subprocess.Popen([sys.executable, "-c", TASK, str(tmp_path / "pids")]) as task:
            wait_for(lambda: len(self.pids(tmp_path / "pids")) == 4)
            pids = self.pids(tmp_path / "pids")
            assert self.alive(pids) == pids
            task.kill()
        wait_for(lambda: not self.alive(pids))

    @pytest.mark.parametrize("is_stubborn", [False, True])
    def test_when_the_batch_is_closed(self, is_stubborn: bool, tmp_path: Path) -> None:
        def call(index: int) -> None:
            if is_stubborn:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            own = subprocess.Popen(["sleep", "100"])
            write_line(tmp_path / "pids", f"{os.getpid()} {os.getppid()} {own.pid}")
            time.sleep(100)

        batch = Batch(9, call, executor="process", concurrency=3)
        thread = threading.Thread(target=batch.run)
        thread.start()
        wait_for(lambda: len(self.pids(tmp_path / "pids")) == 7)
        batch.close()
        thread.join(TIME_OUT)

        assert not thread.is_alive()
        assert statuses(batch) == "........."
        wait_for(lambda: not self.alive(self.pids(tmp_path / "pids")))

    def test_when_all_items_have_ended(self, tmp_path: Path) -> None:
        run(9, lambda index: write_line(tmp_path / "pids", f"{os.getpid()} {os.getppid()}"), concurrency=3)

        assert self.alive(self.pids(tmp_path / "pids")) == set()
