#!/usr/bin/env python3
"""Talks to boards over a line that changes, loses, doubles and holds up bytes, goes away, and resets the board.

The board is the real harness, compiled for this machine, with a model whose output and ticks are different for every
input, so that no reply can pass for another's; then the emulated one. Every output, every timing and every layer's
ticks are compared with what they have to be. Nothing may be wrong, and as every fault passes, nothing may be refused.

Usage: python -m benchmarks.serial_faults [--json] [--exchanges N] [--emulated N] [--seed N]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.firmware import build_firmware
from devices.profile import load_profile
from devices.serial_line.ports import open_port
from devices.serial_line.protocol import Patience, SerialSession
from tests.devices.live_board import (
    LIVE_INPUT_BYTES,
    LIVE_MODEL_ID,
    LiveBoard,
    build_live_board,
    live_layer_ticks,
    live_output,
    live_ticks,
)
from tests.devices.serial_line.faulty_line import BoardEnd, Faults, FaultyLine, PortEnd
from tests.devices.toy_models import INPUT_BYTES, expected_output, write_model
from tinynas.output import print_json, print_table, progress

FAULTS = Faults(flip=0.012, drop=0.01, duplicate=0.008, delay=0.008, insert=0.006, disconnect=0.001, reset=0.002)
"""Of every chunk of bytes that passes, of which an exchange has two to six."""
HASTY = Patience(first_s=0.1, floor_s=0.02, quiet_s=0.01, first_inference_s=0.5)
"""The board answers within a fraction of a millisecond; what is lost shall not take a quarter of a second each."""
EMULATED_DEVICE = "stm32f405"
SHOWN_ERRORS = 5


@dataclass
class Tally:
    """What became of the transactions, and of the faults that befell them."""

    transactions: int = 0
    wrong: int = 0
    refused: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    recovered: Counter[str] = field(default_factory=Counter)
    """Faults during transactions that ended in the right result."""
    unrecovered: Counter[str] = field(default_factory=Counter)
    """Faults during transactions that ended in an error."""
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Truth:
    """What a board has to say."""

    input_bytes: int
    output: Callable[[bytes], bytes]
    ticks: Callable[[bytes], int]
    layer_ticks: Callable[[bytes], tuple[int, ...]]
    ticks_off: int = 0
    """By how much timings may differ: an interrupt of the board's own clock."""


LIVE_TRUTH = Truth(LIVE_INPUT_BYTES, live_output, live_ticks, live_layer_ticks)


def transact(session: SerialSession, truth: Truth, rng: random.Random) -> bool:
    """Ask for an output, a timing or the layers' ticks of a new input; whether the answer was right."""
    data = rng.randbytes(truth.input_bytes)
    match rng.randrange(4):
        case 0:
            runs = rng.randint(1, 4)
            return abs(session.time(data, runs) - runs * truth.ticks(data)) <= runs * truth.ticks_off
        case 1:
            layers = zip(session.layers(data), truth.layer_ticks(data), strict=True)
            return all(abs(found - wanted) <= truth.ticks_off for found, wanted in layers)
        case _:
            return session.run(data) == truth.output(data)


def run_transactions(
    session: SerialSession, line: FaultyLine, truth: Truth, rng: random.Random, is_enough: Callable[[Tally], bool]
) -> Tally:
    """Transactions until there are enough."""
    tally = Tally()
    while not is_enough(tally):
        before = Counter(line.injected)
        tally.transactions += 1
        try:
            is_right = transact(session, truth, rng)
        except DeviceError as error:
            tally.refused += 1
            tally.errors.append(str(error))
            session.sync()
            fate = tally.unrecovered
        else:
            tally.wrong += not is_right
            fate = tally.recovered if is_right else Counter()
        befallen = Counter(line.injected) - before
        tally.injected += befallen
        fate += befallen
    return tally


@contextmanager
def faulty_session(
    board: BoardEnd,
    folder: Path,
    faults: Faults,
    seed: int,
    model_id: str,
    patience: Patience,
    *,
    kind: type[SerialSession] = SerialSession,
) -> Iterator[tuple[SerialSession, FaultyLine]]:
    """A session with a board at the other end of such a line; the first sync is without faults."""
    line = FaultyLine(board, folder / "port", Faults(), seed)
    try:
        port = open_port(str(folder / "port"), "faulty")
        try:
            session = kind(port, "faulty", patience=patience)
            session.sync()
            session.require_model(model_id)
            line.faults = faults
            yield session, line
        finally:
            port.close()
    finally:
        line.close()


def live(exchanges: int, seed: int, folder: Path) -> dict[str, Any]:
    """The harness on this machine."""
    board = LiveBoard(build_live_board(folder))
    begun = time.monotonic()
    try:
        with (
            faulty_session(board, folder, FAULTS, seed, LIVE_MODEL_ID, HASTY) as (session, line),
            progress("talking") as update,
        ):

            def is_enough(tally: Tally) -> bool:
                update(min(exchanges, session.statistics.exchanges), exchanges, "exchanges")
                return session.statistics.exchanges >= exchanges

            tally = run_transactions(session, line, LIVE_TRUTH, random.Random(seed), is_enough)
            return _report("harness on this machine", tally, session, time.monotonic() - begun)
    finally:
        board.close()


def emulated(transactions: int, seed: int, folder: Path) -> dict[str, Any]:
    """The emulated board, with the patience that real ones get."""
    profile = load_profile(EMULATED_DEVICE)
    image = build_firmware(write_model(folder / "model"), profile, folder / "out")
    begun = time.monotonic()
    with EmulatedBoard(profile) as emulator:
        path = emulator.serve(image)
        truth = _truth_of(path)
        end = PortEnd(path)
        try:
            with (
                faulty_session(end, folder, FAULTS, seed, image.model_id, Patience()) as (session, line),
                progress("talking") as update,
            ):

                def is_enough(tally: Tally) -> bool:
                    update(tally.transactions, transactions, "transactions")
                    return tally.transactions >= transactions

                tally = run_transactions(session, line, truth, random.Random(seed), is_enough)
                return _report(f"emulated {EMULATED_DEVICE}", tally, session, time.monotonic() - begun)
        finally:
            end.close()


def _truth_of(path: str) -> Truth:
    """What the toy model takes on a line without faults: the same for every input."""
    port = open_port(path, "faultless")
    try:
        session = SerialSession(port, "faultless")
        session.sync()
        data = bytes(INPUT_BYTES)
        timings = [session.time(data, 1) for _ in range(20)]
        layers = [session.layers(data) for _ in range(20)]
    finally:
        port.close()
    off = 2 * (max(timings) - min(timings)) + 60
    return Truth(INPUT_BYTES, expected_output, lambda _: timings[0], lambda _: layers[0], off)


def _report(board: str, tally: Tally, session: SerialSession, seconds: float) -> dict[str, Any]:
    return {
        "board": board,
        "exchanges": session.statistics.exchanges,
        "transactions": tally.transactions,
        "wrong": tally.wrong,
        "refused": tally.refused,
        "faults": {
            kind: {
                "injected": count,
                "recovered": tally.recovered[kind],
                "unrecovered": tally.unrecovered[kind],
            }
            for kind, count in sorted(tally.injected.items())
        },
        "noticed": asdict(session.statistics),
        "errors": tally.errors[:SHOWN_ERRORS],
        "seconds": round(seconds, 1),
    }


def _print(result: Mapping[str, Any]) -> None:
    print(
        f"{result['board']}: {result['exchanges']} exchanges in {result['transactions']} transactions, "
        f"{result['seconds']:.0f} s: {result['wrong']} wrong, {result['refused']} refused"
    )
    rows = [[kind, row["injected"], row["recovered"], row["unrecovered"]] for kind, row in result["faults"].items()]
    print_table(["fault", "injected", "recovered", "unrecovered"], rows)
    print("noticed:", ", ".join(f"{count} {what}" for what, count in result["noticed"].items()))
    for error in result["errors"]:
        print("error:", error)


def main() -> None:
    """Talk, print, and fail if anything was wrong or refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=100_000, help="with the harness on this machine")
    parser.add_argument("--emulated", type=int, default=300, metavar="TRANSACTIONS", help="with the emulated board")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for talk, count in ((live, options.exchanges), (emulated, options.emulated)):
        if count:
            with tempfile.TemporaryDirectory() as folder:
                results.append(talk(count, options.seed, Path(folder)))
    if options.json:
        print_json({"results": results})
    else:
        for result in results:
            _print(result)
    if any(result["wrong"] or result["refused"] for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
