"""A task's line to its supervisor."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder, _RequestFrame, _ResponseFrame

from airflow_fanout.execution_time.xcom import make_requests_in_a_thread

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def comms(monkeypatch: pytest.MonkeyPatch) -> Iterator[CommsDecoder[Any, Any]]:
    """A task's line to its supervisor, who takes 2 ms to answer, as a batch has it."""
    task_end, supervisor_end = socket.socketpair()
    comms: CommsDecoder[Any, Any] = CommsDecoder(socket=task_end)
    decoder = msgspec.msgpack.Decoder(_RequestFrame)

    def answer() -> None:
        while length := supervisor_end.recv(4, socket.MSG_WAITALL):
            frame = decoder.decode(supervisor_end.recv(int.from_bytes(length), socket.MSG_WAITALL))
            time.sleep(0.002)
            supervisor_end.sendall(_ResponseFrame(id=frame.id).as_bytes())

    supervisor = threading.Thread(target=answer, daemon=True)
    supervisor.start()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
    monkeypatch.setattr(CommsDecoder, "asend", CommsDecoder.asend)  # which this restores
    make_requests_in_a_thread()
    yield comms
    task_end.shutdown(socket.SHUT_RDWR)
    supervisor.join(10)
    task_end.close()
    supervisor_end.close()
