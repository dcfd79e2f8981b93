from __future__ import annotations

import ast
from pathlib import Path

import pytest

import airflow_fanout

PACKAGE = Path(airflow_fanout.__file__).parent

BELOW = {
    "rules": (),
    "exceptions": ("rules",),
    "serialization": ("exceptions", "rules"),
    "storage": ("serialization", "exceptions", "rules"),
    "execution_time": ("storage", "serialization", "exceptions", "rules"),
    "operators": ("execution_time", "storage", "serialization", "exceptions", "rules"),
    "definitions": ("operators", "execution_time", "storage", "serialization", "exceptions", "rules"),
    "decorators": (
        "definitions",
        "operators",
        "execution_time",
        "storage",
        "serialization",
        "exceptions",
        "rules",
    ),
    "testing": ("operators", "execution_time", "storage", "serialization", "exceptions", "rules"),
    "reports": ("serialization", "exceptions", "rules"),
    "metadata": ("reports", "serialization", "exceptions", "rules"),
    "cli": ("metadata", "reports", "serialization", "exceptions", "rules"),
    "demo": ("cli", "metadata", "reports", "serialization", "exceptions", "rules"),
    "ui": ("metadata", "reports", "operators", "serialization", "exceptions", "rules"),
    "get_provider_info": (),
}
"""What each room, or loose module, may import beside itself; ``airflow_fanout`` itself is for its version."""

SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "example_dags" not in path.parts)
IDS = [path.relative_to(PACKAGE).as_posix() for path in SOURCES]


def imported(path: Path) -> set[str]:
    """Modules that a file imports, for types too, and in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def own_modules() -> dict[str, Path]:
    modules = {}
    for path in SOURCES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def room_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if room == "__init__":
        return  # the lazy public names
    allowed = {room, *BELOW[room]}
    modules = [name for name in imported(path) if name.startswith("airflow_fanout.")]

    up = sorted(name for name in modules if room_of(name) not in {*allowed, "__version__"})

    assert not up, f"{room} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_only_metadata_and_ui_import_models(path: Path) -> None:
    models = [name for name in imported(path) if f"{name}.".startswith("airflow.models.")]

    assert not models or path.relative_to(PACKAGE).parts[0] in {"metadata", "ui"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "rules").glob("*.py")), ids=lambda path: path.name)
def test_rules_need_the_standard_library_alone(path: Path) -> None:
    outside = ("airflow.", "attrs", "pendulum", "rich", "httpx", "sqlalchemy")

    assert not [name for name in imported(path) if f"{name}.".startswith(outside)]


def test_no_two_modules_import_each_other() -> None:
    modules = own_modules()
    imports = {
        module: {name for name in imported(path) if name in modules and name != module}
        for module, path in modules.items()
        if module != "airflow_fanout"
    }
    left = dict(imports)
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]

    assert not left, f"these are in a circle, or above one: {sorted(left)}"


def test_no_module_lies_loose() -> None:
    loose = {path.name for path in PACKAGE.glob("*.py")}

    assert loose == {"__init__.py", "decorators.py", "exceptions.py", "get_provider_info.py"}
