"""The stages of a study, in order. Each goes on from what the journal says is done."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from devices.board import Board, Measurement
from devices.store import MeasurementStore
from export.bundle import write_bundle
from export.codegen import generate
from export.flash import flash_bytes
from export.graph import Graph
from export.manifest import write_manifest
from export.planner import plan
from export.synthetic import with_random_weights
from tinynas import output
from tinynas.accuracy import make_accuracy, screened
from tinynas.architecture import Architecture
from tinynas.constraints import Admission
from tinynas.cost_model import Fit, MeasuredNetwork, compare, layer_features
from tinynas.data import Array, some
from tinynas.effort import Effort
from tinynas.errors import SearchError
from tinynas.evaluation import Evaluation
from tinynas.events import (
    CandidateTrained,
    CostModelRefitted,
    Exported,
    Measured,
    SpaceNarrowed,
    StageDone,
    Verified,
)
from tinynas.front import crowded_order
from tinynas.halving import Rungs
from tinynas.measuring import compare_with_reference, measure_graph, random_inputs
from tinynas.models import load_model
from tinynas.narrowing import best_sub_space, sample_sub_spaces
from tinynas.objectives import point_of
from tinynas.space import input_shape_at
from tinynas.strategies import make_strategy
from tinynas.strategies.problem import Problem
from tinynas.study import Progress, SearchOutcome
from tinynas.study import search as run_search
from tinynas.workspace import REFITTED_MODEL, Workspace, candidate_id

if TYPE_CHECKING:  # torch takes a second to load, and most commands do without it
    from torch import nn

    from tinynas.supernet import Supernet
    from tinynas.training import Progress as TrainingProgress
    from tinynas.training import ProgressCallback, TrainResult

SUPERNET = "supernet"
CHECKPOINTS = "checkpoints"
INT8_MODEL = "model_int8.tflite"
REPRESENTATIVE_INPUTS = 200
"""Training images that the int8 converter finds its ranges on."""
AGREEMENT_INPUTS = 1000
"""Test images on which the stages of the export are compared."""


@contextmanager
def training_progress(label: str) -> Iterator[ProgressCallback]:
    """Show a training's progress in per cent."""
    with output.progress(label) as update:
        yield lambda p: update(round(100 * p.fraction), 100, f"%, loss {p.loss:.3f}")


def train_supernet(workspace: Workspace) -> Supernet:
    """Train the weight-sharing supernet, or load the one that is trained."""
    from tinynas.supernet import Supernet

    study = workspace.study
    supernet = Supernet(workspace.search_space, workspace.data, seed=study.settings.seed)
    checkpoint = study.folder / CHECKPOINTS / "supernet.safetensors"
    epochs = Effort.of(workspace.study.settings.training).supernet_epochs
    with training_progress("training the supernet") as update:
        result = supernet.train(epochs=epochs, checkpoint=checkpoint, progress=update)
    if not any(event.stage == SUPERNET for event in study.events_of(StageDone)):
        files = (str(checkpoint.relative_to(study.folder)),)
        study.append(StageDone(stage=SUPERNET, seconds=result.seconds, files=files, figures={"loss": result.loss}))
    return supernet


def narrow(workspace: Workspace) -> None:
    """Choose the sub-space to search, if the study wants one and has none yet."""
    study, samples = workspace.study, workspace.study.settings.narrow_samples
    if not samples or study.events_of(SpaceNarrowed):
        return
    started = time.perf_counter()
    with output.progress("narrowing") as update:
        sub_spaces = sample_sub_spaces(
            workspace.space,
            workspace.data.input_shape,
            workspace.costs(workspace.first_model),
            workspace.limits,
            samples=samples,
            seed=study.settings.seed,
            processes=os.cpu_count() or 1,
            on_progress=lambda done, of: update(done, of, "sub-spaces"),
        )
    best = best_sub_space(sub_spaces)
    study.append(
        SpaceNarrowed(
            resolution=best and best.resolution,
            width=best and best.width,
            sub_spaces=sub_spaces,
            seconds=time.perf_counter() - started,
        )
    )


def search(workspace: Workspace, supernet: Callable[[], Supernet]) -> SearchOutcome:
    """Evaluate candidates until the study has its trials; the supernet is asked for only where it is needed."""
    study, settings = workspace.study, workspace.study.settings
    admission = Admission(workspace.limits, workspace.costs(workspace.first_model))
    problem = Problem(
        workspace.search_space,
        workspace.data.input_shape,
        admission,
        settings.objectives,
        trials=settings.trials,
        seed=settings.seed,
        supernet=supernet,
    )
    strategy = screened(settings.accuracy, make_strategy(settings.strategy, problem), problem)
    accuracy = make_accuracy(
        settings.accuracy,
        space=workspace.search_space,
        data=workspace.data,
        seed=settings.seed,
        supernet=supernet,
        folder=study.folder / CHECKPOINTS / "scratch",
        rungs=Rungs(Effort.of(settings.training).scratch_epochs),
        evaluated=study.evaluations,
    )

    with output.progress("searching") as update:

        def show(progress: Progress) -> None:
            best = max(e.accuracy for e in (progress.latest, *study.evaluations))
            update(progress.done, progress.trials, f"candidates, best {best:.1%}")

        return run_search(study, strategy, admission, accuracy, on_progress=show)


def measure_and_refit(workspace: Workspace, board: Board) -> None:
    """Measure a spread of candidates on the board and refit the latency model to them."""
    study = workspace.study
    if study.events_of(CostModelRefitted):
        return
    batch = _spread(workspace, Effort.of(workspace.study.settings.training).measured)
    done = workspace.measured("random")
    costs = workspace.costs(workspace.first_model)
    store = MeasurementStore()
    with output.progress("measuring") as update:
        for position, architecture in enumerate(batch, start=1):
            if architecture not in done:
                graph = with_random_weights(costs.graph(architecture))
                measurement = measure_graph(graph, workspace.profile, board, store=store)
                predicted = workspace.first_model.latency_ms(
                    plan(graph, workspace.profile.instruction_set), workspace.profile
                )
                study.append(measured_event(architecture, "random", measurement, predicted))
            update(position, len(batch), "candidates")
    networks = measured_networks(workspace)
    before = workspace.first_model.fit_of(networks)
    refitted, after = workspace.first_model.refit_and_judge(networks)
    refitted.save(study.folder / REFITTED_MODEL)
    study.append(
        CostModelRefitted(board=board.name, measurements=len(networks), mape_before=before.mape, mape_after=after.mape)
    )


def refit_quality(workspace: Workspace) -> Fit:
    """How well the refitted model predicts the study's measurements, each by a model fitted to the others alone."""
    networks = measured_networks(workspace)
    predictions = workspace.first_model.left_out_predictions(networks)
    return compare(predictions, [sum(network.cycles) for network in networks])


def measured_networks(workspace: Workspace) -> list[MeasuredNetwork]:
    """What the study measured with random weights, in the form that the cost model learns from."""
    costs = workspace.costs(workspace.first_model)
    return [
        MeasuredNetwork.of(
            layer_features(plan(costs.graph(architecture), workspace.profile.instruction_set)),
            event.layer_cycles,
            event.latency_ms,
            workspace.profile,
        )
        for architecture, event in workspace.measured("random").items()
    ]


def _spread(workspace: Workspace, count: int) -> list[Architecture]:
    """The front first, then the next-best candidates: the model has to be right where the choice is made."""
    best_first = _best_first(workspace, workspace.study.evaluations)
    return [evaluation.architecture for evaluation in best_first[:count]]


def _best_first(workspace: Workspace, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """By the study's objectives: the front, then the front of what is left, and so on."""
    points = [point_of(evaluation, workspace.study.settings.objectives) for evaluation in evaluations]
    return [evaluations[index] for index in crowded_order(points)]


SEPARATION = 0.25
"""The share of the genes in which finalists differ: shared weights rank near-twins, as evolution breeds, by chance."""


def finalists(workspace: Workspace) -> list[Architecture]:
    """The most accurate candidates of the re-ranked front that are no near-twins of one another.

    Where the front is short, the next-best are taken too; where there are too few that differ, near-twins as well.
    """
    count = Effort.of(workspace.study.settings.training).finalists
    best_first, on_front = _best_first(workspace, workspace.evaluations()), len(workspace.front())
    ordered = sorted(best_first[:on_front], key=lambda evaluation: -evaluation.accuracy)
    if on_front < count:
        ordered += best_first[on_front:]
    return without_twins(
        {
            evaluation.architecture: workspace.space.encode(evaluation.architecture, workspace.data.input_shape)
            for evaluation in ordered
        },
        count,
    )


def without_twins(genotypes: Mapping[Architecture, Sequence[int | None]], count: int) -> list[Architecture]:
    """The first ``count`` that differ in ``SEPARATION`` of their genes; where these are too few, the first others."""

    def differs(architecture: Architecture, other: Architecture) -> bool:
        pairs = list(zip(genotypes[architecture], genotypes[other], strict=True))
        return sum(ours != theirs for ours, theirs in pairs) >= SEPARATION * len(pairs)

    chosen: list[Architecture] = []
    for architecture in genotypes:
        if all(differs(architecture, other) for other in chosen):
            chosen.append(architecture)
    return list(dict.fromkeys([*chosen[:count], *genotypes]))[:count]


def train_finalists(workspace: Workspace, architectures: Sequence[Architecture]) -> None:
    """Train candidates as the networks they are, each for the study's epochs; one to a processor core.

    They start from scratch: on Fashion-MNIST the supernet's weights as a start gained nothing in equal time (89.9 %
    against 90.2 % after 5 epochs), and so a network's accuracy depends on its architecture alone.
    """
    import torch

    from tinynas.network import build_network
    from tinynas.training import train
    from tinynas.workers import single_core_workers

    study, done = workspace.study, workspace.trained()
    pending = [architecture for architecture in architectures if architecture not in done]
    if not pending:
        return
    epochs = Effort.of(study.settings.training).finalist_epochs
    networks = []
    for architecture in pending:  # here and not in the workers: they would share the generator of the first weights
        torch.manual_seed(study.settings.seed)
        networks.append(
            build_network(architecture, workspace.space, workspace.data.input_shape, len(workspace.data.classes))
        )
    fractions = [0.0] * len(pending)
    stopping = threading.Event()
    with output.progress(f"training {len(pending)} finalists") as update, single_core_workers() as workers:

        def train_one(index: int) -> TrainResult:
            def progress(latest: TrainingProgress) -> None:
                if stopping.is_set():
                    raise SearchError("the training was stopped")
                fractions[index] = latest.fraction
                update(round(100 * sum(fractions) / len(fractions)), 100, "%")

            return train(
                networks[index],
                workspace.data,
                pending[index].resolution,
                epochs=epochs,
                seed=study.settings.seed,
                checkpoint=_checkpoint(workspace, pending[index]),
                progress=progress,
            )

        try:
            futures = [workers.submit(train_one, index) for index in range(len(pending))]
            for architecture, future in zip(pending, futures, strict=True):
                result = future.result()
                study.append(
                    CandidateTrained(
                        architecture=architecture,
                        accuracy=result.validation_accuracy,
                        test_accuracy=result.test_accuracy,
                        epochs=epochs,
                        seconds=result.seconds,
                        checkpoint=str(_checkpoint(workspace, architecture).relative_to(study.folder)),
                    )
                )
        except BaseException:
            # Leaving the block waits for the workers: an interrupted user should not wait for the last epoch.
            stopping.set()
            workers.shutdown(wait=False, cancel_futures=True)
            raise


def _checkpoint(workspace: Workspace, architecture: Architecture) -> Path:
    return workspace.study.folder / CHECKPOINTS / f"{candidate_id(architecture)}.safetensors"


def trained_network(workspace: Workspace, architecture: Architecture) -> nn.Module:
    """The network of a candidate that was trained, with its weights."""
    from tinynas.checkpoint import load_network
    from tinynas.network import build_network

    network = build_network(architecture, workspace.space, workspace.data.input_shape, len(workspace.data.classes))
    load_network(_checkpoint(workspace, architecture), network)
    return network


def export_candidate(
    workspace: Workspace, architecture: Architecture, folder: Path, board: Board | None = None
) -> Exported:
    """Write a trained candidate's ONNX, float and int8 TFLite, C and manifest into ``folder``, and record it.

    With a board, the compiled network is also measured on it and compared with the reference kernels, and the manifest
    tells both.
    """
    from export.agreement import compare as compare_stages
    from export.agreement import run_stages
    from export.onnx_export import export_onnx
    from export.tflite_convert import convert

    study, data = workspace.study, workspace.data
    network = trained_network(workspace, architecture)
    height, width, channels = input_shape_at(architecture.resolution, data.input_shape)
    onnx_path, float_path, int8_path = (folder / name for name in ("model.onnx", "model_float.tflite", INT8_MODEL))
    output.say(f"exporting {candidate_id(architecture)} to {folder}")
    export_onnx(network, (channels, height, width), onnx_path)
    # Drawn, not the first ones: a data set may be sorted by class.
    representative = _inputs(
        workspace, data.train_images[some(len(data.train_labels), REPRESENTATIVE_INPUTS)], architecture
    )
    convert(onnx_path, representative, float_path, int8_path)
    compared = np.random.default_rng(0).permutation(some(len(data.test_labels), AGREEMENT_INPUTS))
    inputs, labels = _inputs(workspace, data.test_images[compared], architecture), data.test_labels[compared]
    outputs = run_stages(network, onnx_path, float_path, int8_path, inputs)
    graph = load_model(int8_path).graph
    model = generate(graph, workspace.profile.instruction_set)
    write_bundle(model, folder / "c")
    settings: dict[str, object] = {
        "architecture": str(architecture),
        "device": workspace.profile.name,
        "data": {"name": data.name, "sha256": data.fingerprint, "classes": data.classes},
        "input": {
            "resized_to": [height, width, channels],
            "mean": data.mean,
            "std": data.std,
            "meaning": "(pixel - mean) / std, then quantized with the input's scale and zero point in c/model.h",
        },
        "study": study.settings.model_dump(),
    }
    agreement = compare_stages(outputs, labels)
    stages = {"stages": agreement.to_json()}
    compiler = None
    if board is not None:
        measured, verified = _run_on_board(workspace, architecture, int8_path, graph, board)
        settings["measured"] = measured.model_dump(mode="json", exclude={"architecture", "time"})
        settings["verified"] = verified.model_dump(mode="json", exclude={"architecture", "time"})
        compiler = measured.toolchain
        count = Effort.of(study.settings.training).verified_inputs
        on_board = {stage: values[:count] for stage, values in outputs.items()}
        on_board["c"] = _board_outputs(board, graph, inputs[:count])
        stages["stages_with_board"] = compare_stages(on_board, labels[:count]).to_json()
    write_manifest(folder, settings=settings, agreement=stages, compiler=compiler)
    event = Exported(
        architecture=architecture,
        folder=os.path.relpath(folder, study.folder),
        accuracy=agreement.accuracy,
        sram_bytes=model.plan.arena_bytes,
        flash_bytes=flash_bytes(model.plan, workspace.profile),
    )
    study.append(event)
    return event


def _inputs(workspace: Workspace, images: Array, architecture: Architecture) -> npt.NDArray[np.float32]:
    """[N, H, W, C] float32 inputs as the network takes them."""
    from tinynas.network import resize

    shape = input_shape_at(architecture.resolution, workspace.data.input_shape)
    return workspace.data.normalize(resize(images, shape))


def _board_outputs(board: Board, graph: Graph, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[N, classes] real outputs of the flashed board for real inputs [N, H, W, C]."""
    from export.agreement import dequantize_output, quantize_input

    source, target = (graph.tensors[index].quantization for index in (graph.inputs[0], graph.outputs[0]))
    assert source is not None
    assert target is not None
    quantized = quantize_input(inputs, source.scale, source.zero_point)
    raw = board.outputs([image.tobytes() for image in quantized])
    values = np.stack([np.frombuffer(output, np.int8) for output in raw])
    return dequantize_output(values, target.scale, target.zero_point)


def _run_on_board(
    workspace: Workspace, architecture: Architecture, model: Path, graph: Graph, board: Board
) -> tuple[Measured, Verified]:
    """Measure the exported model and compare its outputs with the reference kernels' bit for bit."""
    predicted = workspace.first_model.latency_ms(plan(graph, workspace.profile.instruction_set), workspace.profile)
    measured = measured_event(
        architecture, "trained", measure_graph(graph, workspace.profile, board, store=MeasurementStore()), predicted
    )
    workspace.study.append(measured)
    inputs = random_inputs(graph, Effort.of(workspace.study.settings.training).verified_inputs, seed=0)
    comparison = compare_with_reference(model.read_bytes(), inputs, board.outputs(inputs))
    verified = Verified(
        architecture=architecture,
        board=board.name,
        inputs=comparison.inputs,
        identical=comparison.identical,
        max_abs_diff=comparison.max_abs_diff,
    )
    workspace.study.append(verified)
    return measured, verified


def measured_event(
    architecture: Architecture, weights: Literal["random", "trained"], measurement: Measurement, predicted_ms: float
) -> Measured:
    """The journal's line for a measurement."""
    return Measured(
        architecture=architecture,
        weights=weights,
        board=measurement.board,
        latency_ms=measurement.latency_ms,
        predicted_latency_ms=predicted_ms,
        cycles=measurement.cycles,
        instructions=measurement.instructions,
        layer_cycles=measurement.layer_cycles,
        sram_bytes=measurement.sram_bytes,
        flash_bytes=measurement.flash_bytes,
        code_bytes=measurement.code_bytes,
        firmware_sha256=measurement.firmware_sha256,
        toolchain=measurement.toolchain,
    )
