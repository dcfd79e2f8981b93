"""Runs the tests on every supported Airflow with every Python that is installed, and prints a table."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
AIRFLOWS: dict[str, list[str]] = {
    "3.2": ["--constraint", "constraints-airflow-3.2.txt"],
    "3.3": ["--constraint", "constraints.txt"],
    # The newest release, or pre-release until there is one.
    "3.4": ["--prerelease", "allow", "--upgrade", "apache-airflow>=3.4.0a0,<3.5"],
}
SUITES = {
    "unit": ["tests/unit"],
    "integration": ["tests/integration", "-m", "not slow"],
    "commands": [
        "tests/integration/test_check.py",
        "tests/integration/test_clearing.py",
        "tests/e2e/test_report.py",
        "tests/e2e/test_rerun.py",
    ],
    "end to end": ["tests/e2e", "-m", "compat"],
}
PASSED, FAILED = "passed", "FAILED"


def main() -> int:
    """Return 1 if a supported combination fails."""
    rows: list[tuple[str, str, dict[str, str]]] = []
    for airflow, versions in AIRFLOWS.items():
        for version in PYTHONS:
            python = find_python(version)
            if python is None:
                print(f"Python {version} is not installed: left out", flush=True)
                continue
            environment = ROOT / ".venv-matrix" / f"airflow-{airflow}-python-{version}"
            install(python, environment, [*versions, "--editable", ".[test]"])
            rows.append(run(environment))
    failed = any(FAILED in verdict for _, _, verdicts in rows for verdict in verdicts.values())
    print("\n| Airflow | Python | " + " | ".join(SUITES) + " |")
    print("|---|---|" + "---|" * len(SUITES))
    for airflow, version, verdicts in rows:
        print(f"| {airflow} | {version} | " + " | ".join(verdicts[suite] for suite in SUITES) + " |")
    return int(failed)


def find_python(version: str) -> str | None:
    """Find an interpreter, such as ``3.12``: where pyenv has it, or on the path."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    interpreters = sorted(root.glob(f"versions/{version}.*/bin/python"))
    return str(interpreters[-1]) if interpreters else shutil.which(f"python{version}")


def install(python: str, environment: Path, arguments: list[str]) -> None:
    """Make an environment, or bring it up to date; the arguments are those of ``pip install``."""
    own = environment / "bin" / "python"
    if not own.exists():
        subprocess.run([python, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(own), "-m", "pip", "install", "--quiet", "uv"], check=True)
    uv = [str(own), "-m", "uv", "pip", "install", "--quiet", "--python", str(own)]
    subprocess.run([*uv, *arguments], check=True, cwd=ROOT)


def run(environment: Path) -> tuple[str, str, dict[str, str]]:
    """Run the suites of an environment; return the versions of Airflow and Python, and verdicts by suite."""
    python = str(environment / "bin" / "python")
    script = "import platform; from importlib.metadata import version as v; "
    script += "print(v('apache-airflow-core'), platform.python_version())"
    versions = subprocess.run([python, "-c", script], check=True, capture_output=True, text=True)
    airflow, version = versions.stdout.split()
    verdicts: dict[str, str] = {}
    for suite, arguments in SUITES.items():
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as home:
            ended = subprocess.run(
                [python, "-m", "pytest", "-q", *arguments],
                cwd=ROOT,
                env={**os.environ, "AIRFLOW_HOME": home},
                check=False,
            )
        verdict = PASSED if ended.returncode == 0 else FAILED
        verdicts[suite] = verdict
        print(
            f"Airflow {airflow}, Python {version}, {suite}: {verdict}, {time.monotonic() - began:.0f} s",
            flush=True,
        )
    return airflow, version, verdicts


if __name__ == "__main__":
    sys.exit(main())
