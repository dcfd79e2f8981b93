"""Ask pip-audit whether known vulnerabilities are in constraints.txt, and say so where nobody could tell."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

NOT_AUDITED = "NOT AUDITED: the vulnerability database can't be reached from here"


def verdict(report: dict[str, Any]) -> tuple[int, str]:
    """
    Judge pip-audit's report, which is JSON; return the exit code and the lines to print.

    It takes a package that its database doesn't know for one without vulnerabilities, and so a registry
    without that database for a clean bill of health.
    """
    packages = report["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if not audited:
        return 0, f"{NOT_AUDITED} (it knows none of {len(packages)} packages)"
    lines = [f"{len(audited)} of {len(packages)} packages audited"]
    lines += [f"not audited: {name}" for name in skipped]
    vulnerabilities = [
        f"{package['name']} {package['version']}: {vulnerability['id']}"
        f" (mended in {', '.join(vulnerability['fix_versions']) or 'no version yet'})"
        for package in audited
        for vulnerability in package["vulns"]
    ]
    lines += vulnerabilities or ["no known vulnerabilities"]
    return (1 if vulnerabilities else 0), "\n".join(lines)


def main(command: list[str]) -> int:
    """Run pip-audit, and print its verdict."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(ended.stdout)
    except ValueError:
        last = (ended.stderr.strip() or "it said nothing").splitlines()[-1]
        print(f"{NOT_AUDITED} (exit code {ended.returncode}: {last})")
        return 0
    code, text = verdict(report)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
