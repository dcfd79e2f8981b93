"""A StatsD server on loopback that keeps what it is told."""

from __future__ import annotations

import re
import socketserver
from typing import NamedTuple

from airflow_fanout.demo.embedded import LOOPBACK
from tests.support.serving import Serving

__all__ = ["Metric", "StatsDServer"]

LINE = re.compile(r"(?P<name>[^,:]+)(?P<tags>(?:,[^:]*)?):(?P<value>[^|]+)\|(?P<kind>\w+)")


class Metric(NamedTuple):
    """One line of StatsD with InfluxDB's tags: ``airflow.fan_out.branches,state=success:3|c``."""

    name: str
    tags: dict[str, str]
    value: float
    kind: str


class StatsDServer(Serving, socketserver.ThreadingUDPServer):
    """Listens on a free port while it is entered."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__((LOOPBACK, 0), _Handler)
        self.port: int = self.server_address[1]

    @property
    def settings(self) -> dict[str, str]:
        """Environment in which an Airflow tells it of everything, with tags."""
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": LOOPBACK,
            "AIRFLOW__METRICS__STATSD_PORT": str(self.port),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        }

    def metrics(self, **tags: str) -> list[Metric]:
        """What it was told of fan-outs, with these tags, in order."""
        found = [match for line in list(self.lines) if (match := LINE.fullmatch(line))]
        read = [
            Metric(
                name=match["name"],
                tags=dict(tag.split("=", 1) for tag in match["tags"].split(",")[1:]),
                value=float(match["value"]),
                kind=match["kind"],
            )
            for match in found
            if ".fan_out." in match["name"]
        ]
        return [metric for metric in read if tags.items() <= metric.tags.items()]


class _Handler(socketserver.BaseRequestHandler):
    server: StatsDServer

    def handle(self) -> None:
        data, _ = self.request
        self.server.lines += data.decode().splitlines()
