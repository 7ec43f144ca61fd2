"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# A shared machine is slow at times, so no test depends on the clock; in CI the same examples are drawn every time.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--board",
        metavar="NAME",
        help="run the hardware-in-the-loop tests on this board, as after tinynas measure --board; else on the emulator",
    )


@pytest.fixture(scope="session")
def references() -> Path:
    """The folder of reference models and published latencies: $TINYNAS_REFERENCES, else the repository's ../shared."""
    folder = Path(os.environ.get("TINYNAS_REFERENCES", ROOT.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no reference models in {folder}; set TINYNAS_REFERENCES to the folder that has models/ and data/")
    return folder


@pytest.fixture(scope="session", params=["vww", "ic", "kws", "ad"])
def reference_model(request: pytest.FixtureRequest, references: Path) -> Path:
    """Each of the four MLPerf Tiny int8 models in turn."""
    return references / "models" / f"{request.param}.tflite"
