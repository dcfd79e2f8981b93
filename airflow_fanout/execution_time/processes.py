"""Child processes of a task, in which the items of a batch run one after another."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_fanout.execution_time.xcom import (
    forward_request,
    give_line_to,
    receive,
    supervisor_ended,
    supervisor_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable


END_SECONDS = 2.0
"""For all children to end when the batch has."""

REQUEST = struct.Struct("!i")
"""What the fork server is asked: 0 for a new child, a child's process id for how it ended."""

ANSWER = struct.Struct("!ii")
"""Process id of a new child and 0, or how a child ended; 0 and the number of an error."""

SIZE = struct.Struct("!Q")

PR_SET_PDEATHSIG = 1

IGNORED = (signal.SIGINT, signal.SIGTERM)
"""Signals to all processes of a task, of which the task decides what they mean."""

HELD = (signal.SIGALRM, *IGNORED)
"""Signals whose handlers may raise: in the middle of a fork they would leave logging's lock taken."""


class ChildEndedError(Exception):
    """Raised when a child process has ended before it had answered; says how."""


class Child:
    """A child process, which is asked one thing at a time; used by one thread."""

    def __init__(self, server: ForkServer, pid: int, work: socket.socket, line: socket.socket) -> None:
        self._server, self._pid, self._work, self._line = server, pid, work, line

    def ask(self, request: bytes) -> bytes:
        """
        Have it work, and answer what it asks of Airflow meanwhile.

        :raises ChildEndedError: If the process has ended before it had answered.
        :raises ConnectionResetError: If the supervisor has ended, which ends its task.
        """
        polled = select.poll()
        polled.register(self._work, select.POLLIN)
        polled.register(self._line, select.POLLIN)
        if (supervisor := supervisor_line()) is not None:
            polled.register(supervisor, 0)  # its end is told all the same
        with contextlib.suppress(ConnectionError):  # it has ended
            self._work.sendall(SIZE.pack(len(request)) + request)
        while True:
            ready = {descriptor for descriptor, _ in polled.poll()}
            if self._work.fileno() in ready:
                if (answer := _received(self._work)) is not None:
                    return answer
                raise ChildEndedError(self._end())
            if supervisor is not None and supervisor.fileno() in ready:
                raise supervisor_ended()
            if not forward_request(self._line):  # closed by the item, or with the process
                polled.unregister(self._line)

    def kill(self) -> None:
        """Kill the process, with what its item has started; ``ask`` then says so."""
        _kill_group(self._pid)

    def close(self) -> None:
        """Let the process end once its item has."""
        self._work.close()
        self._line.close()

    def _end(self) -> str:
        self.close()
        code = os.waitstatus_to_exitcode(self._server.status_of(self._pid))
        if code >= 0:
            return f"ended with exit code {code}"
        with contextlib.suppress(ValueError):  # it is none that has a name
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"


class ForkServer:
    """
    A process, forked from the task's before there are threads, that forks the children.

    Beside threads a fork may copy a lock that nobody will ever release. The children have the items and
    functions by memory: nothing is imported again. None outlives the task, however that ends: the kernel
    kills them with the server and the server with the task, or, where it doesn't do so, the server kills
    them when its socket is closed.

    :param work: Called in a child with each request; returns the answer.
    """

    def __init__(self, work: Callable[[bytes], bytes]) -> None:
        self._socket, server_end = socket.socketpair()
        self._lock = threading.Lock()
        task = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        try:
            self._pid = os.fork()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if not self._pid:
            self._socket.close()
            _end_after(lambda: _serve(server_end, work, task))
        server_end.close()

    def start(self) -> Child:
        """
        Start a child.

        :raises OSError: If there are no more to be had, or the server has ended.
        """
        (work, work_end), (line, line_end) = socket.socketpair(), socket.socketpair()
        with work_end, line_end, contextlib.ExitStack() as opened:
            opened.enter_context(work)
            opened.enter_context(line)
            pid, error = self._ask(0, work_end.fileno(), line_end.fileno())
            if error:
                raise OSError(error, f"no process can be started for the items: {os.strerror(error)}")
            opened.pop_all()
        return Child(self, pid, work, line)

    def status_of(self, pid: int) -> int:
        """Status with which a child that has closed its socket has ended."""
        return self._ask(pid)[1]

    def stop(self) -> None:
        """Have all children killed; a signal handler may call this."""
        with contextlib.suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait(self) -> None:
        """Wait until all children have ended."""
        self.stop()
        end = time.monotonic() + END_SECONDS
        with contextlib.suppress(ChildProcessError):  # somebody else has waited for it
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > end:
                    os.kill(self._pid, signal.SIGKILL)
                    os.waitpid(self._pid, 0)
                    break
                time.sleep(0.001)
        self._socket.close()

    def _ask(self, request: int, *descriptors: int) -> tuple[int, int]:
        answer = None
        with self._lock, contextlib.suppress(ConnectionError):
            socket.send_fds(self._socket, [REQUEST.pack(request)], descriptors)
            answer = receive(self._socket, ANSWER.size)
        if answer is None:
            message = "the process that starts those of the items has ended"
            raise ConnectionResetError(message)
        return ANSWER.unpack(answer)


def _serve(server: socket.socket, work: Callable[[bytes], bytes], task: int) -> None:
    """Fork children on request, and say how they have ended."""
    _die_with(task)
    for signal_number in IGNORED:
        signal.signal(signal_number, signal.SIG_IGN)
    give_line_to(None)
    gc.freeze()  # a collection would copy the memory that all children share
    children: set[int] = set()
    while True:
        asked, descriptors, _, _ = socket.recv_fds(server, REQUEST.size, 2)
        if not asked:
            break
        (pid,) = REQUEST.unpack(asked)
        if pid:
            _kill_group(pid)  # it may have closed its socket and gone on
            answer = os.waitpid(pid, 0)
            children.discard(pid)
        else:
            answer = _fork(server, work, *map(_socket_of, descriptors))
            children.add(answer[0])
        server.sendall(ANSWER.pack(*answer))
    for pid in children - {0}:
        _kill_group(pid)
        os.waitpid(pid, 0)


def _fork(
    server: socket.socket, work: Callable[[bytes], bytes], asked: socket.socket, line: socket.socket
) -> tuple[int, int]:
    with asked, line:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            return 0, error.errno or 0
        if not pid:
            server.close()
            _end_after(lambda: _work_in_child(work, asked, line, parent))
        with contextlib.suppress(OSError):  # it has done so itself
            os.setpgid(pid, pid)
        return pid, 0


def _work_in_child(
    work: Callable[[bytes], bytes], asked: socket.socket, line: socket.socket, parent: int
) -> None:
    """Answer one request after another."""
    _die_with(parent)
    os.setpgid(0, 0)  # what an item starts is killed with it
    # Airflow's importer of Dag files handles SIGSEGV, in Python, and so has a crash repeat itself for ever.
    for signal_number in signal.valid_signals():
        if signal_number in IGNORED or callable(signal.getsignal(signal_number)):
            signal.signal(signal_number, signal.SIG_DFL)
    _be_first_without_memory()
    _draw_other_numbers()
    give_line_to(line)
    os.register_at_fork(after_in_child=asked.close)  # else a process of an item could answer for it
    while (request := _received(asked)) is not None:
        answer = work(request)
        _flush()
        asked.sendall(SIZE.pack(len(answer)) + answer)


def _end_after(work: Callable[[], None]) -> NoReturn:
    """End this process after some work: it must not return to what its parent is in the midst of."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that does; Linux alone can."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)


def _be_first_without_memory() -> None:
    """Have the kernel, when memory runs out, kill this process before the task's."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123
        score.write("500")


def _draw_other_numbers() -> None:
    """Seed NumPy's numbers, which would be the same in all children; Python does so itself with its own."""
    if (random := sys.modules.get("numpy.random")) is not None:
        random.seed()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, or replaced by the author's own
            stream.flush()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _received(line: socket.socket) -> bytes | None:
    size = receive(line, SIZE.size)
    return None if size is None else receive(line, *SIZE.unpack(size))


def _socket_of(descriptor: int) -> Any:
    return socket.socket(fileno=descriptor)
