"""Asks for one address many times at once, from a process of its own, and says what came back."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import httpx


async def ask(url: str, token: str, number: int) -> dict[str, Any]:
    """Return how many answers had which status, what their reports were made of, and when it was."""
    limits = httpx.Limits(max_connections=number)
    cookies = {"_token": token}
    async with httpx.AsyncClient(timeout=120, trust_env=False, limits=limits, cookies=cookies) as http:
        began = time.monotonic()
        answers = await asyncio.gather(*(http.get(url) for _ in range(number)))
        ended = time.monotonic()
    reports = [answer.json()["report"] for answer in answers if answer.status_code == 200]
    return {
        "statuses": Counter(answer.status_code for answer in answers),
        "read_at": sorted({report["read_at"] for report in reports}),
        "items": sorted({group["items"]["total"] for report in reports for group in report["groups"][:1]}),
        "began": began,
        "ended": ended,
    }


if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    print(json.dumps(asyncio.run(ask(**given))))
