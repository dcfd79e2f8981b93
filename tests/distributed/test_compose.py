"""docker-compose.yaml is valid, gives nothing away, and its image can be built from this repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest
from compose_spec import PyCompose

from tests.distributed.compose_file import (
    REPOSITORY,
    MissingVariableError,
    Variable,
    interpolate,
    read,
    variables,
)

EXAMPLE = REPOSITORY / ".env.example"
FILE = read()
SERVICES: dict[str, Any] = FILE["services"]
SECRETS = {
    "AIRFLOW_ADMIN_PASSWORD",
    "AIRFLOW_API_SECRET_KEY",
    "AIRFLOW_FERNET_KEY",
    "AIRFLOW_JWT_SECRET",
    "CELERY_RESULTS_PASSWORD",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
}
FILLED = dict.fromkeys(SECRETS, "made-up")
AIRFLOW = {"apiserver", "dag-processor", "init", "scheduler", "triggerer", "worker"}
# PostgreSQL counts in two numbers, all others in three.
FULL_VERSION = re.compile(r"(postgres:\d+|[\w./-]+:\d+\.\d+)\.\d+(-[\w.]+)?")

every_service = pytest.mark.parametrize("name", sorted(SERVICES))
every_airflow_service = pytest.mark.parametrize("name", sorted(AIRFLOW))


def as_compose_casts(contents: dict[str, Any]) -> dict[str, Any]:
    """Compose turns a number that came from a variable, and so is text, into a number."""
    worker = contents["services"]["worker"]
    worker["deploy"]["replicas"] = int(worker["deploy"]["replicas"])
    return contents


def instructions() -> list[list[str]]:
    """The Dockerfile's instructions, each with what comes after it."""
    text = interpolate(SERVICES["worker"]["build"]["dockerfile_inline"], FILLED).replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]


def test_it_is_valid() -> None:
    contents = as_compose_casts(interpolate(FILE, FILLED))
    specification = PyCompose.from_json(json.dumps(contents)).to_spec()
    assert set(specification.services or {}) == AIRFLOW | {"postgres", "redis"}


@every_service
def test_an_image_is_pinned_by_its_full_version(name: str) -> None:
    assert FULL_VERSION.fullmatch(SERVICES[name]["image"])


def test_the_image_is_built_on_the_airflow_that_it_is_named_after() -> None:
    (base,) = (what for instruction, what in instructions() if instruction == "FROM")
    assert base.removeprefix("apache/airflow:") == SERVICES["worker"]["image"].removeprefix("airflow-fanout:")
    assert f"apache-airflow=={base.removeprefix('apache/airflow:').split('-')[0]}" in constraints()


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_nothing_starts_without_a_secret(secret: str) -> None:
    with pytest.raises(MissingVariableError, match=f"{secret} is missing a value: openssl rand .* makes one"):
        interpolate(FILE, {**FILLED, secret: ""})


def test_only_secrets_have_no_default() -> None:
    assert {found.name for found in variables(FILE) if found.default is None} == SECRETS


def test_no_secret_is_written_down() -> None:
    # What looks like one is a variable through and through, or is made of one.
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|AUTH$|CONN|BACKEND|BROKER_URL", name):
                assert re.search(r"\$\{\w+:\?", str(value)), name


def test_a_worker_knows_neither_airflows_database_nor_what_tokens_are_signed_with() -> None:
    text = json.dumps(SERVICES["worker"]["environment"])
    assert {found.name for found in variables(text)} & SECRETS == {
        "AIRFLOW_API_SECRET_KEY",
        "CELERY_RESULTS_PASSWORD",
        "REDIS_PASSWORD",
    }
    settings = {"DATABASE__SQL_ALCHEMY_CONN", "CORE__FERNET_KEY", "API_AUTH__JWT_SECRET"}
    assert not {f"AIRFLOW__{name}" for name in settings} & set(SERVICES["worker"]["environment"])


def test_the_example_lists_exactly_the_variables_of_the_file() -> None:
    lines = re.findall(r"^(#?)([A-Z_]+)=(.*)$", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    listed = {
        (name, text if commented else None, bool(text) and not commented) for commented, name, text in lines
    }
    assert listed == {(found.name, found.default, False) for found in variables(FILE)}


def test_a_variable_is_the_same_wherever_it_is_used() -> None:
    found: set[Variable] = variables(FILE)
    assert len({variable.name for variable in found}) == len(found)


@every_service
def test_a_service_has_a_health_check_or_ends_by_itself(name: str) -> None:
    ends = name == "init"
    assert ("healthcheck" in SERVICES[name]) is not ends
    assert SERVICES[name]["restart"] == ("no" if ends else "unless-stopped")


@every_airflow_service
def test_a_service_cannot_change_the_dags(name: str) -> None:
    assert "./dags:/opt/airflow/dags:ro" in SERVICES[name]["volumes"]


@pytest.mark.parametrize("name", sorted(AIRFLOW - {"init"}))
def test_a_service_waits_for_the_database_to_be_migrated(name: str) -> None:
    awaited = {service: condition["condition"] for service, condition in SERVICES[name]["depends_on"].items()}
    assert awaited["init"] == "service_completed_successfully"
    assert {condition for service, condition in awaited.items() if service != "init"} == {"service_healthy"}


def test_there_can_be_any_number_of_workers() -> None:
    assert not {"container_name", "hostname", "ports"} & set(SERVICES["worker"])


def test_nothing_but_the_api_server_is_open_to_the_machine_and_that_on_loopback() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert interpolate(ports, {}) == {"apiserver": ["127.0.0.1:8080:8080"]}


def test_a_service_is_on_no_network_that_it_does_not_need() -> None:
    members = {
        network: {name for name, service in SERVICES.items() if network in service["networks"]}
        for network in FILE["networks"]
    }
    assert members == {
        "database": AIRFLOW | {"postgres"},
        "broker": {"apiserver", "redis", "scheduler", "worker"},
        "tasks": {"apiserver", "dag-processor", "triggerer", "worker"},
    }
    assert {name for name, network in FILE["networks"].items() if network} == {"database", "broker"}
    assert all(network == {"internal": True} for network in FILE["networks"].values() if network)


@every_service
def test_a_service_has_no_rights_of_the_machine(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    # The images of the servers start as root, to take over their volumes.
    kept = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
    assert set(service.get("cap_add", ())) == (set() if name in AIRFLOW else kept)
    assert service.get("read_only", False) is (name not in AIRFLOW)


def test_every_volume_is_used_and_declared() -> None:
    mounts = {mount.split(":")[0] for service in SERVICES.values() for mount in service["volumes"]}
    assert {mount for mount in mounts if not mount.startswith(".")} == set(FILE["volumes"])


@every_airflow_service
def test_a_service_does_not_run_as_root(name: str) -> None:
    assert "user" not in SERVICES[name]
    assert not [what for instruction, what in instructions() if instruction == "USER"]


def test_what_the_image_copies_is_in_the_build() -> None:
    allowed = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {name for sources, _ in copies() for name in sources}
    assert {line[1:] for line in allowed if line.startswith("!")} == copied


def test_the_image_can_be_built(tmp_path: Path) -> None:
    # The image's own Python has Airflow already. An empty one shows that the line asks for all that it needs.
    image = tmp_path / "image"
    home = image / "home"
    home.mkdir(parents=True)
    shutil.copy(REPOSITORY / "constraints.txt", home)
    venv.create(image / "venv", with_pip=True)
    for sources, target in copies():
        for source in sources:
            path = REPOSITORY / source
            if path.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, image / target.relative_to("/"), ignore=ignored, dirs_exist_ok=True)
            else:
                (image / target.relative_to("/")).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, image / target.relative_to("/"))
    (install,) = (what for instruction, what in instructions() if instruction == "RUN")
    environment = {
        **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "LANG"))},
        "PATH": f"{image / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW_VERSION": airflow_version(),
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, env=environment, cwd=home, capture_output=True, text=True, timeout=1800, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("sh", "-c", install.replace("/opt/", f"{image}/opt/"))
    providers = run("airflow", "providers", "list", "--output", "plain")
    assert re.search(r"^airflow-fanout ", providers, re.MULTILINE)
    assert run("airflow", "version").strip() == airflow_version()
    run("python", "-c", "import dateparser, sklearn, vaderSentiment")


def copies() -> list[tuple[list[str], Path]]:
    """What the Dockerfile copies, and where to."""
    found = []
    for instruction, what in instructions():
        if instruction == "COPY":
            *sources, target = (word for word in what.split() if not word.startswith("--"))
            found.append((sources, Path(target)))
    return found


def airflow_version() -> str:
    """The version in the name of the image."""
    return str(SERVICES["worker"]["image"].removeprefix("airflow-fanout:").split("-")[0])


def constraints() -> list[str]:
    return (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
