"""An SMTP server on loopback that keeps the mails that it is given."""

from __future__ import annotations

import email
import email.policy
import socketserver
from typing import TYPE_CHECKING

from airflow_fanout.demo.embedded import LOOPBACK
from tests.support.serving import Serving

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = ["MailServer"]


class MailServer(Serving, socketserver.ThreadingTCPServer):
    """Listens on a free port while it is entered; takes any mail, from anybody, without a password."""

    daemon_threads = True

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        super().__init__((LOOPBACK, 0), _Session)
        self.port: int = self.server_address[1]


class _Session(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self._say("220 ready")
        for line in self.rfile:
            match line.split()[0].upper():
                case b"DATA":
                    self._say("354 go on")
                    self._take()
                    self._say("250 taken")
                case b"QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 ok")

    def _take(self) -> None:
        lines = []
        for line in self.rfile:
            if line.rstrip() == b".":
                break
            lines.append(line.removeprefix(b"."))
        self.server.mails.append(email.message_from_bytes(b"".join(lines), policy=email.policy.default))

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())
