"""Ask pip-audit whether known vulnerabilities are in constraints.txt, and say so where nobody could tell."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

NOT_AUDITED = "NOT AUDITED: the vulnerability database can't be reached from here"


def verdict(report: dict[str, Any]) -> tuple[int, str]:
    """
    Judge what pip-audit found: ``(exit code, what to say)``.

    It takes a package that its database doesn't know for one without vulnerabilities, and so a registry
    without that database for a clean bill of health.

    :param report: Its JSON.
    """
    packages = report["dependencies"]
    audited = [each for each in packages if "skip_reason" not in each]
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    if not audited:
        return 0, f"{NOT_AUDITED} (it knows none of {len(packages)} packages)"
    lines = [f"{len(audited)} of {len(packages)} packages audited"]
    lines += [f"not audited: {name}" for name in skipped]
    found = [
        f"{each['name']} {each['version']}: {hole['id']}"
        f" (mended in {', '.join(hole['fix_versions']) or 'no version yet'})"
        for each in audited
        for hole in each["vulns"]
    ]
    return (1 if found else 0), "\n".join([*lines, *(found or ["no known vulnerabilities"])])


def main(command: list[str]) -> int:
    """Run pip-audit, and say what came of it."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(ran.stdout)
    except ValueError:
        last = (ran.stderr.strip() or "it said nothing").splitlines()[-1]
        print(f"{NOT_AUDITED} (exit code {ran.returncode}: {last})")
        return 0
    code, said = verdict(report)
    print(said)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
