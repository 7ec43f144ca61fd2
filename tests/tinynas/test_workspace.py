from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from devices.profile import load_profile
from tinynas.architecture import Architecture
from tinynas.constraints import Limits
from tinynas.cost_model import prior
from tinynas.events import CandidateTrained, Measured
from tinynas.space import load_space
from tinynas.study import Study, StudySettings
from tinynas.workspace import Workspace

SHAPE = (28, 28, 1)
PROFILE = load_profile("stm32f405")
SPACE = load_space("mobilenet_small")


def trained(architecture: Architecture, accuracy: float) -> CandidateTrained:
    return CandidateTrained(
        architecture=architecture, accuracy=accuracy, test_accuracy=accuracy, epochs=1, seconds=1.0, checkpoint="x"
    )


def measured(architecture: Architecture, latency_ms: float) -> Measured:
    return Measured(
        architecture=architecture,
        weights="trained",
        board="emulator",
        latency_ms=latency_ms,
        predicted_latency_ms=latency_ms,
        cycles=1,
        instructions=1,
        layer_cycles=(1,),
        sram_bytes=1,
        flash_bytes=1,
        firmware_sha256="0",
        toolchain="gcc",
    )


def workspace_with(folder: Path, max_latency_ms: float) -> Workspace:
    settings = StudySettings(
        device="stm32f405", data="made-up", space=SPACE.name, strategy="random", trials=1, seed=0, limits={}
    )
    return Workspace(
        study=Study.open(folder, settings),
        profile=PROFILE,
        data=cast(Any, SimpleNamespace(input_shape=SHAPE, classes=("a", "b"))),
        space=SPACE,
        limits=Limits.for_device(PROFILE, {"max_latency_ms": max_latency_ms}),
        first_model=prior("cortex-m4"),
    )


def test_winner_is_the_most_accurate_that_keeps_the_limits_as_measured(tmp_path: Path) -> None:
    smallest = SPACE.extreme(SHAPE, largest=False)
    other = SPACE.sample(random.Random(3), SHAPE)
    workspace = workspace_with(tmp_path / "study", max_latency_ms=1000.0)
    assert workspace.winner() is None
    workspace.study.append(trained(smallest, 0.7))
    workspace.study.append(trained(other, 0.9))
    found = workspace.winner()
    assert found is not None
    assert found.architecture == other

    workspace.study.append(measured(other, 1001.0))  # the board says otherwise than the cost model
    found = workspace.winner()
    assert found is not None
    assert found.architecture == smallest
    workspace.study.append(measured(smallest, 2000.0))
    assert workspace.winner() is None
