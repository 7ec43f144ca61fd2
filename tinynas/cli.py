"""The command line. Every command takes ``--json``; exit codes are 0 done, 1 a stated failure, 2 wrong usage."""

from __future__ import annotations

import enum
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from devices.errors import TinyNasError
from devices.profile import DEFAULT_DEVICE
from tinynas import output
from tinynas.phones.spaces import PublishedSpace
from tinynas.study_options import StudyOptions, takes_study_options

app = typer.Typer(
    name="tinynas",
    help="Finds the most accurate network that fits a microcontroller, and proves it on the board or its emulator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130
"""The exit code after Ctrl-C, as of any program that SIGINT ends; typer exits with it."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL.tflite", help="An int8 TensorFlow Lite model.")]
Device = Annotated[str, typer.Option("--device", help="A device profile; 'tinynas devices' lists them.")]
BoardDevice = Annotated[
    str | None, typer.Option("--device", help=f"A device profile; by default the board's, or {DEFAULT_DEVICE}.")
]
Board = Annotated[str, typer.Option("--board", help="emulator, serial:PORT, adb:SERIAL, or a name from boards.toml.")]
Runs = Annotated[
    int | None,
    typer.Option("--runs", min=1, help="Inferences to time; by default until the median is known within 1 %."),
]
StreamInput = Annotated[
    bool, typer.Option("--stream-input", help="The input arrives row by row, and never exists whole in SRAM.")
]
BenchmarkModel = Annotated[
    Path | None,
    typer.Option(
        "--benchmark-model",
        help="Phones: TensorFlow Lite's benchmark_model; by default $TINYNAS_BENCHMARK_MODEL, or the phone's own.",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Phones: threads to run on; by default 1.")]
Cores = Annotated[
    str | None,
    typer.Option("--cores", help="Phones: fast (the default), all, or a mask in hexadecimal as for taskset."),
]
Xnnpack = Annotated[
    bool | None, typer.Option("--xnnpack/--no-xnnpack", help="Phones: whether XNNPACK runs what it can; by default so.")
]
Study = Annotated[Path, typer.Argument(metavar="STUDY", help="A study's folder.")]


class Layout(enum.StrEnum):
    """Kinds of project that ``compile`` writes for."""

    PLAIN = "plain"
    CMAKE = "cmake"
    ARDUINO = "arduino"
    PLATFORMIO = "platformio"
    ZEPHYR = "zephyr"
    ESP_IDF = "esp-idf"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tinynas {version('tinynas')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of no one command."""


def _finish(result: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    if as_json:
        output.print_json(result)
    else:
        show(result)
        sys.stdout.flush()  # while a full disk or a closed pipe can still be told from success


def _phone_options(
    benchmark_model: Path | None, threads: int | None, cores: str | None, xnnpack: bool | None
) -> dict[str, Any]:
    """By the names that PhoneOptions has for them."""
    return {"benchmark_model": benchmark_model, "threads": threads, "cores": cores, "xnnpack": xnnpack}


@app.command()
def devices(as_json: Json = False) -> None:
    """List the device profiles and the boards."""
    from tinynas.commands import boards, show

    _finish(boards.devices(), as_json, show.devices)


@app.command()
def check(
    model: Model, device: Device = DEFAULT_DEVICE, stream_input: StreamInput = False, as_json: Json = False
) -> None:
    """Plan a model for a device, without running it.

    Says what SRAM and flash it takes, layer by layer, and why it does not fit.
    """
    from tinynas.commands import model as commands
    from tinynas.commands import show

    _finish(commands.check(model, device, stream_input=stream_input), as_json, show.check)


@app.command("compile")
def compile_(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write.")],
    device: Device = DEFAULT_DEVICE,
    layout: Annotated[Layout, typer.Option("--layout", help="The kind of project the files are for.")] = Layout.PLAIN,
    stream_input: StreamInput = False,
    as_json: Json = False,
) -> None:
    """Compile a model to C, ready to drop into a project."""
    from tinynas.commands import model as commands
    from tinynas.commands import show

    _finish(commands.compile_model(model, device, out, layout.value, stream_input=stream_input), as_json, show.files)


@app.command()
def measure(
    model: Model,
    board: Board,
    device: BoardDevice = None,
    runs: Runs = None,
    stream_input: StreamInput = False,
    note: Annotated[str, typer.Option("--note", help="Words of your own, kept with the measurement.")] = "",
    benchmark_model: BenchmarkModel = None,
    threads: Threads = None,
    cores: Cores = None,
    xnnpack: Xnnpack = None,
    as_json: Json = False,
) -> None:
    """Run a model on a board and time every layer.

    A phone runs the file itself, in TensorFlow Lite's benchmark_model. The measurement is kept, with all it takes to
    repeat it: see 'tinynas history'.
    """
    from tinynas.commands import boards, show

    phone = _phone_options(benchmark_model, threads, cores, xnnpack)
    result = boards.measure(model, board, device, runs, stream_input=stream_input, note=note, phone=phone)
    _finish(result, as_json, show.measurement)


@app.command()
def history(
    what: Annotated[
        str | None, typer.Argument(metavar="[MODEL|ID]", help="A model's file, name or hash, or a measurement's id.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Only those of this device profile.")] = None,
    board: Annotated[str | None, typer.Option("--board", help="Only those of this board.")] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Only those since 2026-11-29, 2026-11-29T08:00 (UTC), or 12h, 7d, 2w ago."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the newest so many.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write every column there too.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write a JUnit report there too.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option("--max-latency-ms", min=0.0, help="In the JUnit report, a failure above this.")
    ] = None,
    max_regression: Annotated[
        float | None,
        typer.Option(
            "--max-regression",
            min=0.0,
            metavar="PERCENT",
            help="In the JUnit report, a failure where a model became so much slower since it was last measured.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what was measured, or tell one measurement in full.

    The newest comes first. Each is compared with the one before of the same model on the same device and kind of board.
    """
    from tinynas.commands import history as commands
    from tinynas.commands import show

    selection = commands.selection(device, board, since, limit)
    limits = commands.Limits(max_latency_ms, max_regression)
    result = commands.history(what, selection, limits, csv_path=csv_file, junit_path=junit)
    _finish(result, as_json, show.history)


@app.command()
def verify(
    model: Model,
    board: Board,
    device: BoardDevice = None,
    inputs: Annotated[int, typer.Option("--inputs", min=1, help="Random inputs to compare on.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same inputs.")] = 0,
    stream_input: StreamInput = False,
    benchmark_model: BenchmarkModel = None,
    threads: Threads = None,
    cores: Cores = None,
    xnnpack: Xnnpack = None,
    as_json: Json = False,
) -> None:
    """Compare a board's outputs with the reference, bit for bit.

    The reference are LiteRT's reference kernels. The exit code is 1 when an output differs; on a phone, whose kernels
    round in another way, when one differs by more than those were seen to.
    """
    from tinynas.commands import boards, show

    phone = _phone_options(benchmark_model, threads, cores, xnnpack)
    result = boards.verify(model, board, device, inputs, seed, stream_input=stream_input, phone=phone)
    _finish(result, as_json, show.verification)
    if not result.get("within_tolerance", result["identical"] == result["inputs"]):
        raise typer.Exit(1)


@app.command()
def emulate(model: Model, device: Device = DEFAULT_DEVICE, as_json: Json = False) -> None:
    """Start an emulated board for tools of your own.

    The first line printed is its serial port; Ctrl-C ends it.
    """
    from tinynas.commands import boards

    boards.emulate(model, device, as_json)


@app.command()
def calibrate(
    board: Annotated[
        list[str] | None,
        typer.Option(
            "--board",
            help="emulator, serial:PORT, or a name from boards.toml; several, or platform:DEVICE, measure at once.",
        ),
    ] = None,
    device: BoardDevice = None,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Networks to measure at most.")] = 12,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same networks.")] = 0,
    power_trace: Annotated[
        Path | None,
        typer.Option(
            "--power-trace", help="A power monitor's CSV: time, and power or current. Sets the device's power."
        ),
    ] = None,
    supply_v: Annotated[
        float | None,
        typer.Option("--supply-v", min=0.1, help="The supply's voltage, if the trace has a current alone."),
    ] = None,
    inferences: Annotated[
        int, typer.Option("--inferences", min=1, help="In the trace: back to back, or while its channel D0 is high.")
    ] = 1,
    latency_ms: Annotated[
        float | None,
        typer.Option("--latency-ms", min=1e-6, help="Of each of them, where no channel D0 marks them in the trace."),
    ] = None,
    latencies: Annotated[
        Path | None,
        typer.Option("--latencies", help="A CSV of networks that somebody timed on phones: columns arch, <phone>_ms."),
    ] = None,
    space: Annotated[PublishedSpace | None, typer.Option("--space", help="The space of its networks.")] = None,
    at_random: Annotated[
        bool, typer.Option("--random", help="Fit random ones of its networks, not those that say most of the others.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Refit the cost model to what a board says of networks.

    It runs those that the model is least sure of. Errors are of networks that the fit has not seen; the model that is
    kept is fitted on all. With --power-trace, energies are from then on those of the power that was measured; no board
    is needed for that. With --latencies, a phone's costs are fitted to --samples of the networks in a file, and predict
    the others.
    """
    from tinynas.commands import show

    if latencies is not None:
        if space is None or board or power_trace is not None:
            raise typer.BadParameter("--latencies needs --space, and goes with neither --board nor --power-trace")
        from tinynas.commands import latencies as commands

        fitted = commands.calibrate(latencies, space, samples, seed, at_random=at_random)
        _finish(fitted, as_json, show.phones)
        return
    if space is not None or at_random:
        raise typer.BadParameter("--space and --random are of the networks of --latencies; give that too")
    if not board and power_trace is None:
        raise typer.BadParameter(
            "give --board (emulator, serial:PORT, or a name from boards.toml), --power-trace or --latencies"
        )
    from devices.boards import platform_of
    from tinynas.commands import boards

    result: dict[str, Any] = {}
    if power_trace is not None:
        name = platform_of(board[0] if board else "", device)
        result |= boards.refine_power(power_trace, name, supply_v, inferences, latency_ms)
    if board:
        result |= boards.calibrate(board, device, samples, seed)
    _finish(result, as_json, show.calibration)


@app.command()
def predict(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL.tflite]", help="An int8 TensorFlow Lite model.")
    ] = None,
    architecture: Annotated[str | None, typer.Option("--architecture", help="An architecture's text form.")] = None,
    device: Device = DEFAULT_DEVICE,
    data: Annotated[
        str, typer.Option("--data", help="The data set whose inputs --architecture takes.")
    ] = "fashion-mnist",
    as_json: Json = False,
) -> None:
    """Predict latency and energy from the cost model alone."""
    from tinynas.commands import model as commands
    from tinynas.commands import show

    if (model is None) == (architecture is None):
        raise typer.BadParameter("give a MODEL.tflite or --architecture, and not both")
    _finish(commands.predict(model, architecture, device, data), as_json, show.prediction)


@app.command()
@takes_study_options
def search(options: StudyOptions, device: Device = DEFAULT_DEVICE, as_json: Json = False) -> None:
    """Search for the most accurate networks that fit a device.

    A study that exists is resumed.
    """
    from tinynas.commands import show, studies

    _finish(studies.search(options.out, options.settings(device)), as_json, show.front)


@app.command()
def export(
    study: Study,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write.")],
    candidate: Annotated[
        str | None, typer.Option("--candidate", help="A candidate's id or architecture; by default the winner.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a candidate's ONNX, TFLite, C and manifest.

    Trains it first, if that has not been done.
    """
    from tinynas.commands import show, studies

    _finish(studies.export(study, candidate, out), as_json, show.exported)


@app.command()
def report(study: Study, as_json: Json = False) -> None:
    """Write a study's report: one self-contained HTML page."""
    from tinynas.commands import show, studies

    _finish(studies.report(study), as_json, show.path)


@app.command()
@takes_study_options
def run(options: StudyOptions, device: BoardDevice = None, board: Board = "emulator", as_json: Json = False) -> None:
    """Do all of it, from the search to the verified winner.

    Searches, measures, refits, trains, exports, compiles, verifies and reports; a study that exists is resumed.
    """
    from devices.boards import platform_of
    from tinynas.commands import show, studies

    settings = options.settings(platform_of(board, device))
    _finish(studies.run(options.out, board, settings), as_json, show.run)


lab = typer.Typer(
    help="Find, check and use the boards of a lab.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(lab, name="boards")


@lab.command("scan")
def scan_boards(
    write: Annotated[bool, typer.Option("--write", help="Add what is not listed yet to boards.toml.")] = False,
    as_json: Json = False,
) -> None:
    """List what is plugged in, and what boards.toml lacks.

    That is serial ports, debug probes and phones. Nothing is opened. Probes are those that the installed tools see.
    """
    from tinynas.commands import lab as commands
    from tinynas.commands import show

    _finish(commands.scan(write), as_json, show.scan)


@lab.command("check")
def check_boards(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Boards of boards.toml; by default all available.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether boards can be used, else what to do.

    Each is locked, opened and asked how it is. An emulated board runs a small network; nothing is written to a real
    one. The exit code is 1 when a board fails.
    """
    from tinynas.commands import lab as commands
    from tinynas.commands import show

    result = commands.check(ids or [])
    _finish(result, as_json, show.board_states)
    if not result["ok"]:
        raise typer.Exit(1)


@lab.command("measure")
def measure_on_boards(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL.tflite...", help="int8 TensorFlow Lite models.")],
    boards: Annotated[
        list[str],
        typer.Option(
            "--board",
            help="A board; give it once for each, or platform:DEVICE or fixture:NAME for those of boards.toml.",
        ),
    ],
    device: BoardDevice = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Measure many models on many boards at once.

    The boards are of one platform, and the figures are those of one at a time. What fails on one board is tried on
    another. Every measurement is kept. The exit code is 1 when a model could not be measured.
    """
    from tinynas.commands import lab as commands
    from tinynas.commands import show

    result = commands.measure(models, boards, device, runs)
    _finish(result, as_json, show.lab_measurements)
    if result["measured"] < len(models):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot show is no reason to fail
    # A polite kill ends like Ctrl-C, so that the emulator and the temporary folders go too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = _run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        # What could not be written stays in the buffer, and Python would complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 1
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        app(arguments)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            return _failed(_interrupted(arguments), arguments, INTERRUPTED)
        return ended.code if isinstance(ended.code, int) else 1
    except TinyNasError as error:
        return _failed(str(error), arguments)
    except OSError as error:
        return _failed(_explain(error), arguments)
    return 0


def _failed(message: str, arguments: list[str], code: int = 1) -> int:
    message = output.one_line(message)
    output.say(f"tinynas: {message}")
    if "--json" in arguments:
        with suppress(OSError):  # standard output itself may be what failed
            output.print_json({"error": message})
    return code


def _interrupted(arguments: list[str]) -> str:
    resumes = bool({"search", "run", "export"} & set(arguments[:1]))
    return "interrupted" + ("; the same command goes on from here" if resumes else "")


def _explain(error: OSError) -> str:
    what = f"'{error.filename}'" if error.filename else "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {what} could not be written; free some space, or choose another place"
    return f"{what} could not be read or written ({error.strerror or error}); check that it exists and who may use it"


if __name__ == "__main__":
    main()
