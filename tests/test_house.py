"""What holds for the repository as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(project: dict[str, object]) -> list[str]:
    table = project["project"]
    assert isinstance(table, dict)
    extras = [line for name, lines in table["optional-dependencies"].items() if name != "dev" for line in lines]
    return [*table["dependencies"], *extras]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("module", ["tinynas", "tinynas.cli", "devices.profile", "export.graph"])
def test_import_loads_no_framework(module: str) -> None:
    """The command line answers at once: torch and tensorflow load where they are used."""
    frameworks = "{'torch', 'tensorflow', 'onnx', 'sklearn', 'keras'}"
    code = f"import sys, {module}; print(*sorted({frameworks} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_requirement_is_one_exact_version_that_constraints_pin_too(project: dict[str, object]) -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    pinned = {canonical(name): version for name, version in pinned.items()}
    for requirement in requirements(project):
        name, version = requirement.split("==")
        assert pinned[canonical(name)] == version, requirement
