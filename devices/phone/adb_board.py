"""A phone on adb: the model runs in TensorFlow Lite's own ``benchmark_model``, whose figures are taken or refused."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from devices.board import Image, Measurement
from devices.errors import DeviceError
from devices.host.closing import Closing
from devices.host.locks import board_lock
from devices.host.scratch import scratch_folder
from devices.phone.adb import PATIENCE_S, PHONE_FOLDER, AdbFaultError, AdbPhone, CommandFailedError, cksum
from devices.phone.benchmark_model import BenchmarkOutputError, BenchmarkReport, ignored_flags, parse_report
from devices.phone.model import PhoneModel
from devices.phone.state import (
    STATE_SCRIPT,
    PhoneState,
    core_mask,
    cores_of,
    describe,
    fast_cores,
    parse_state,
    warnings_of,
)
from devices.profile import DeviceProfile
from devices.statistics import DEFAULT, RepeatPolicy, repeat_until_steady, summarize

RUNS_PER_INVOCATION = 50
"""What benchmark_model does by default."""
WARMUP_RUNS = 5
"""At least; it goes on for half a second, in which the clock rises."""
ATTEMPTS = 20
"""At one step, when the connection to the phone is not what it should be."""
TOOL_ATTEMPTS = 3
"""At one step, when benchmark_model fails or prints nonsense."""
RESTARTS = 10
"""Of a whole measurement, when the phone was away in the middle of it."""
PROBE_S = 30.0
"""More than a few inferences of anything take."""
WARMUP_S = 0.5
"""What benchmark_model spends on warm-up at least."""

ONCE = ("--num_runs=1", "--min_secs=0")
_OWN_TOOL = "benchmark_model"
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class PhoneOptions:
    """How to measure on a phone."""

    benchmark_model: Path | None = None
    """The executable to push; by default ``$TINYNAS_BENCHMARK_MODEL``, else the phone's own."""
    threads: int = 1
    cores: str = "fast"
    """Where it may run: ``fast`` for the fastest cores, ``all``, or a mask in hexadecimal as for ``taskset``."""
    xnnpack: bool = True
    """Whether XNNPACK runs what it can of the graph, as TensorFlow Lite does by default, or its own kernels all."""
    keep: bool = False
    """Whether what was pushed stays on the phone for the next time."""

    def __post_init__(self) -> None:
        """Raise DeviceError when no phone can run like that."""
        if self.threads < 1:
            raise DeviceError(f"a model cannot run on {self.threads} threads; give at least 1")
        if self.cores not in ("fast", "all") and not re.fullmatch(r"(0x)?0*[1-9a-fA-F][0-9a-fA-F]*", self.cores):
            raise DeviceError(
                f"the cores '{self.cores}' are none; give fast, all, or a mask in hexadecimal such as f0 (cores 4 to 7)"
            )


@dataclass(frozen=True)
class _Tool:
    """The benchmark_model on the phone."""

    path: str
    digest: str


class AdbBoard(Closing):
    """A phone, by its serial number or ``HOST:PORT``; "" is the only one that is connected. For one user at a time."""

    def __init__(
        self,
        serial: str,
        profile: DeviceProfile,
        name: str | None = None,
        *,
        options: PhoneOptions | None = None,
        policy: RepeatPolicy = DEFAULT,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Find the phone. Raises DeviceError when it is not there or not ready, BoardBusyError when it is in use."""
        if profile.kind != "phone":
            raise DeviceError(
                f"{profile.name} is no phone, and phones are all that adb reaches; name yours with --device, such as "
                "pixel2, or android for any"
            )
        self._profile = profile
        self.options = options or PhoneOptions()
        """What a caller may still change before the first model is flashed."""
        self._policy = policy
        self._image: PhoneModel | None = None
        self._tool: _Tool | None = None
        self._folders: list[str] = []
        self._boot_id: str | None = None
        self._repairs: list[Callable[[], None]] = []
        self._absences = 0
        self._resources = ExitStack()
        try:
            self._phone = self._resources.enter_context(AdbPhone(serial, patience_s=patience_s))
            self.name = name or f"adb:{self._phone.serial}"
            self._resources.enter_context(board_lock(f"adb:{self._phone.serial}", board=self.name))
        except BaseException:
            self._resources.close()
            raise

    def flash(self, image: Image) -> None:
        """Copy the model to the phone, and benchmark_model, unless they are there.

        Raises DeviceError, also when there is no benchmark_model, with where it comes from.
        """
        if not isinstance(image, PhoneModel):
            raise DeviceError(
                f"the phone {self.name} cannot run a firmware image; give it the model's .tflite file itself"
            )
        self._image = image
        self._repairs = self._all_repairs()
        self._persist(lambda: None)

    def measure(self, inputs: Sequence[bytes], runs: int | None = None) -> Measurement:
        """Time ``runs`` inferences, by default until the median over invocations of benchmark_model is known.

        One of ``latencies_ms`` is the mean over one invocation, of RUNS_PER_INVOCATION inferences at most. The inputs
        are benchmark_model's own, at random: the time of a network does not depend on them. A profile of the operators
        is taken afterwards, so that it disturbs nothing. When the phone was away, all begins anew. Raises DeviceError.
        """
        self._flashed()
        if not inputs or (runs is not None and runs < 1):
            raise DeviceError("there is nothing to measure: give at least one input and one run")
        for _ in range(RESTARTS):
            with suppress(_WasAwayError):
                return self._measure(runs)
        raise DeviceError(
            f"the phone {self.name} went away {RESTARTS} times in the middle of a measurement; check its cable and "
            "whether it restarts by itself"
        )

    def outputs(self, inputs: Sequence[bytes]) -> list[bytes]:
        """The raw output of each raw input. Raises DeviceError, also when benchmark_model is too old to write it."""
        image = self._flashed()
        with scratch_folder() as folder:
            outputs = []
            for given in inputs:
                (folder / "input").write_bytes(given)
                self._persist(partial(self._copy, folder / "input", f"{_folder_of(image.sha256)}/input"))
                outputs.append(self._persist(partial(self._output, given, folder)))
            return outputs

    def condition(self) -> dict[str, str]:
        """What phone this is, how it is now, and which benchmark_model it runs. Raises DeviceError when it has none."""
        state = self._persist(self._state)
        pinned = self._pinned(state)
        self._persist(self._install_tool)
        return (
            self._persist(self._facts)
            | {"benchmark_model": self._installed().digest}
            | describe(state, pinned, "now")
            | _warned(warnings_of(state, state, pinned))
        )

    def close(self) -> None:
        """Remove what was copied to the phone and let go of it."""
        if self._folders:
            with suppress(DeviceError):
                self._persist(self._clean_up)
        self._folders = []
        self._resources.close()

    def _flashed(self) -> PhoneModel:
        if self._image is None:
            raise DeviceError(f"the phone {self.name} has no model yet: flash one first")
        return self._image

    def _measure(self, runs: int | None) -> Measurement:
        image, absences = self._flashed(), self._absences
        before = self._persist(self._state)
        facts = self._persist(self._facts)
        pinned = self._pinned(before)
        # The first is a warm-up too: it brings the files into memory, and tells how long to wait for the others.
        inference_s = self._persist(lambda: self._probe(pinned))
        takes_s = WARMUP_S + inference_s * (WARMUP_RUNS + RUNS_PER_INVOCATION)
        reports: list[BenchmarkReport] = []

        def sample(count: int = RUNS_PER_INVOCATION) -> float:
            report = self._persist(lambda: self._invoke(pinned, count, takes_s))
            if self._absences != absences:
                raise _WasAwayError
            reports.append(report)
            return report.inference.mean_us / 1e3

        if runs is None:
            latencies_ms = repeat_until_steady(sample, replace(self._policy, warmups=max(0, self._policy.warmups - 1)))
        else:
            latencies_ms = tuple(
                sample(min(RUNS_PER_INVOCATION, runs - done)) for done in range(0, runs, RUNS_PER_INVOCATION)
            )
        timed = reports[-len(latencies_ms) :]
        after = self._persist(self._state)
        profile = self._persist(lambda: self._invoke(pinned, RUNS_PER_INVOCATION, takes_s, profiled=True))
        if self._absences != absences:
            raise _WasAwayError
        memory_mib = timed[-1].memory_overall_mib
        measured = replace(
            image,
            arena_bytes=0 if memory_mib is None else round(memory_mib * 2**20),
            toolchain=f"benchmark_model {self._installed().digest}",
        )
        return Measurement.of_image(
            measured,
            board=self.name,
            latency_ms=summarize(latencies_ms, self._policy).median,
            cycles=None,
            instructions=None,
            layer_cycles=(),
            runs=sum(report.inference.count for report in timed),
            clock_hz=self._profile.clock_hz,
            latencies_ms=latencies_ms,
            operators=profile.operators,
            conditions=facts
            | self._settings(pinned, timed)
            | describe(before, pinned, "before")
            | describe(after, pinned, "after")
            | _warned(warnings_of(before, after, pinned) + self._setting_warnings(pinned, timed)),
        )

    def _state(self) -> PhoneState:
        return parse_state(self._phone.shell(STATE_SCRIPT, check=False).output)

    def _facts(self) -> dict[str, str]:
        """What phone this is."""
        names = {
            "phone": "ro.product.model",
            "product": "ro.product.device",
            "android": "ro.build.version.release",
            "build": "ro.build.fingerprint",
            "abi": "ro.product.cpu.abi",
        }
        script = "; ".join(f'echo "{name}=$(getprop {key} 2>/dev/null)"' for name, key in names.items())
        found = dict(line.partition("=")[::2] for line in self._phone.shell(script).output.splitlines())
        return {"adb": self._phone.version(), "serial": self._phone.serial} | {
            name: found[name].strip() for name in names if found.get(name, "").strip()
        }

    def _pinned(self, state: PhoneState) -> tuple[int, ...]:
        """The cores to run on; none where it runs on all of them."""
        if self.options.cores == "all":
            return ()
        pinned = fast_cores(state.cores) if self.options.cores == "fast" else cores_of(self.options.cores)
        if pinned and self._persist(lambda: self._phone.shell("command -v taskset", check=False)).exit_code != 0:
            raise DeviceError(
                f"the phone {self.name} has no taskset to keep a program on some of its cores; measure on all of them "
                "with --cores all"
            )
        return pinned

    def _settings(self, pinned: Sequence[int], timed: Sequence[BenchmarkReport]) -> dict[str, str]:
        """How benchmark_model was run, and what it said of that."""
        last = timed[-1]
        asked = "XNNPACK" if self.options.xnnpack else "none"
        settings = {
            "benchmark_model": self._installed().digest,
            "threads": str(self.options.threads),
            "cores": ", ".join(map(str, pinned)) or "all",
            "core_mask": core_mask(pinned) if pinned else "none",
            "delegate": last.delegate or asked,
            "runs_per_invocation": str(last.inference.count),
            "invocations": str(len(timed)),
        }
        if last.memory_init_mib is not None and last.memory_overall_mib is not None:
            settings["memory_mib"] = f"{last.memory_overall_mib:g} ({last.memory_init_mib:g} after loading)"
        if last.init_us is not None:
            settings["load_ms"] = f"{last.init_us / 1e3:g}"
        return settings

    def _setting_warnings(self, pinned: Sequence[int], timed: Sequence[BenchmarkReport]) -> tuple[str, ...]:
        warnings = []
        if pinned and self.options.threads > len(pinned):
            warnings.append(
                f"{self.options.threads} threads share {len(pinned)} cores; give fewer --threads, or more --cores"
            )
        if flags := timed[-1].ignored_flags:
            warnings.append(f"this benchmark_model does not know {' '.join(flags)}; use a newer one")
        return tuple(warnings)

    def _probe(self, pinned: Sequence[int]) -> float:
        """Roughly how many seconds one inference takes, loading included."""
        report = parse_report(self._run_tool(pinned, [*ONCE, "--warmup_runs=1", "--warmup_min_secs=0"], PROBE_S))
        slowest_us = max(each.max_us for each in (report.warmup, report.inference) if each is not None)
        return (slowest_us + (report.init_us or 0.0)) / 1e6

    def _invoke(self, pinned: Sequence[int], runs: int, takes_s: float, *, profiled: bool = False) -> BenchmarkReport:
        flags = [f"--num_runs={runs}", "--min_secs=0", f"--warmup_runs={WARMUP_RUNS}"]
        if profiled:
            flags.append("--enable_op_profiling=true")
        return parse_report(self._run_tool(pinned, flags, takes_s), profiled=profiled)

    def _run_tool(self, pinned: Sequence[int], flags: Sequence[str], takes_s: float) -> str:
        """Run benchmark_model on the model; its process is noted down on the phone, so that it can be ended there."""
        folder = _folder_of(self._flashed().sha256)
        pin = f"taskset {core_mask(pinned)} " if pinned else ""
        given = [
            f"--graph=$D/{folder}/model.tflite",
            f"--num_threads={self.options.threads}",
            f"--use_xnnpack={str(self.options.xnnpack).lower()}",
            *flags,
        ]
        note = f"$D/{folder}/pid-{secrets.token_hex(4)}"
        script = (
            f"{pin}{self._installed().path} {' '.join(given)} & echo $! >{note}; wait $!; r=$?; rm -f {note}; exit $r"
        )
        return self._phone.shell(script, takes_s=takes_s).output

    def _output(self, given: bytes, folder: Path) -> bytes:
        image = self._flashed()
        remote = _folder_of(image.sha256)
        self._phone.shell(f"rm -f $D/{remote}/output")
        if not self._is_there(given, f"{remote}/input"):
            self._copy(folder / "input", f"{remote}/input")
        shape = ",".join(map(str, image.input_shape))
        said = self._run_tool(
            (),
            [
                *ONCE,
                "--warmup_runs=0",
                "--warmup_min_secs=0",
                "--input_layer=input",
                f"--input_layer_shape={shape}",
                f"--input_layer_value_files=input:$D/{remote}/input",
                f"--output_filepath=$D/{remote}/output",
            ],
            PROBE_S,
        )
        size = self._phone.shell(f"wc -c <$D/{remote}/output", check=False)
        if size.exit_code != 0 or ignored_flags(said):
            raise DeviceError(
                f"the benchmark_model on the phone {self.name} does not write a network's output (--output_filepath); "
                f"use a newer one. {WHERE_FROM}"
            )
        self._phone.pull(f"{PHONE_FOLDER}/{remote}/output", folder / "output", int(size.output))
        output = (folder / "output").read_bytes()
        if not self._is_there(output, f"{remote}/output"):
            raise AdbFaultError(f"an output of the phone {self.name} arrived damaged; check its cable and try again")
        return output

    def _persist(self, action: Callable[[], _Result]) -> _Result:
        """Do it until it succeeds, as long as there is hope. Raises DeviceError."""
        faults = failed_repairs = failures = 0
        while True:
            try:
                while self._repairs:
                    self._repairs[0]()
                    del self._repairs[0]
                    failed_repairs = 0
                return action()
            except AdbFaultError:
                if self._repairs:
                    failed_repairs += 1
                else:
                    faults += 1
                if ATTEMPTS in (faults, failed_repairs):
                    raise
                was_away = self._phone.wait_until_ready()
                self._absences += was_away
                # A fault in the middle of repairs leaves those that were done.
                if was_away or not self._repairs:
                    self._repairs = self._all_repairs()
            except (BenchmarkOutputError, CommandFailedError):
                failures += 1
                if failures == TOOL_ATTEMPTS:
                    raise

    def _all_repairs(self) -> list[Callable[[], None]]:
        """After a fault: end what still runs on the phone, and bring back what is not there any more."""
        repairs: list[Callable[[], None]] = [self._look_for_restart]
        if self._image is not None:
            model = self._image
            repairs += [
                self._end_left_over,
                self._install_tool,
                lambda: self._copy(model.tflite, f"{_folder_of(model.sha256)}/model.tflite"),
            ]
        return repairs

    def _look_for_restart(self) -> None:
        boot_id = self._phone.shell("cat $P/sys/kernel/random/boot_id", check=False).output.strip()
        self._absences += self._boot_id not in (None, boot_id)
        self._boot_id = boot_id

    def _end_left_over(self) -> None:
        """A benchmark that runs on after its connection was lost would slow down the next."""
        self._phone.shell(
            f"for i in $D/tinynas-*/pid-*; do p=$(cat $i 2>/dev/null) || continue; "
            f"if grep -q {_OWN_TOOL} $P/$p/cmdline 2>/dev/null; then kill -9 $p; fi; rm -f $i; done"
        )

    def _install_tool(self) -> None:
        given = self.options.benchmark_model or _from_environment()
        if given is None:
            found = self._phone.shell(
                f"[ -x $D/{_OWN_TOOL} ] || chmod 755 $D/{_OWN_TOOL}; {_digest_script(f'$D/{_OWN_TOOL}')}", check=False
            )
            if found.exit_code != 0:
                raise DeviceError(
                    f"no benchmark_model to run on the phone {self.name}: give it with --benchmark-model FILE, "
                    f"$TINYNAS_BENCHMARK_MODEL or in boards.toml, or push it to {PHONE_FOLDER}/{_OWN_TOOL}. "
                    f"{WHERE_FROM}"
                )
            self._tool = _Tool(f"$D/{_OWN_TOOL}", " ".join(found.output.split()[:1]))
            return
        try:
            digest = hashlib.sha256(given.read_bytes()).hexdigest()
        except OSError as error:
            raise DeviceError(
                f"the benchmark_model '{given}' cannot be read ({error.strerror}); check its name. {WHERE_FROM}"
            ) from error
        name = f"{_folder_of(digest)}/{_OWN_TOOL}"
        self._copy(given, name)
        self._phone.shell(f"chmod 755 $D/{name}")
        self._tool = _Tool(f"$D/{name}", digest)

    def _installed(self) -> _Tool:
        assert self._tool is not None  # flash() has seen to it
        return self._tool

    def _copy(self, source: Path, name: str) -> None:
        """Have the file on the phone, under ``name`` in its folder."""
        folder = name.partition("/")[0]
        if folder not in self._folders:
            self._folders.append(folder)
        keep = f" && touch $D/{folder}/.keep" if self.options.keep else ""
        self._phone.shell(f"mkdir -p $D/{folder}{keep}")
        content = source.read_bytes()
        if self._is_there(content, name):
            return
        self._phone.push(source, f"{PHONE_FOLDER}/{name}")
        if not self._is_there(content, name):
            raise AdbFaultError(
                f"{source} arrived damaged on the phone {self.name}; check its cable and the space left on the phone"
            )

    def _is_there(self, content: bytes, name: str) -> bool:
        found = self._phone.shell(_digest_script(f"$D/{name}"), check=False).output.split()
        return found[:1] in ([hashlib.sha256(content).hexdigest()], [hashlib.md5(content).hexdigest()]) or found[
            :2
        ] == [str(cksum(content)), str(len(content))]

    def _clean_up(self) -> None:
        self._end_left_over()
        for folder in self._folders:
            self._phone.shell(f"[ -e $D/{folder}/.keep ] || rm -rf $D/{folder}")
        self._phone.shell("rm -f $D/.tinynas-*")


class _WasAwayError(Exception):
    """The phone was gone, or started again, in the middle of a measurement."""


WHERE_FROM = (
    "It is TensorFlow Lite's: fetch it ready-made from https://storage.googleapis.com/tensorflow-nightly-public/prod/"
    "tensorflow/release/lite/tools/nightly/latest/android_aarch64_benchmark_model (others: "
    "https://ai.google.dev/edge/litert/models/measurement, native benchmark binary), or build it in TensorFlow's "
    "sources: bazel build -c opt --config=android_arm64 //tensorflow/lite/tools/benchmark:benchmark_model"
)


def _folder_of(digest: str) -> str:
    return f"tinynas-{digest[:16]}"


def _digest_script(path: str) -> str:
    """Prints a file's SHA-256, or what the phone has instead; fails when there is no such file."""
    return f"[ -f {path} ] && {{ sha256sum {path} 2>/dev/null || md5sum {path} 2>/dev/null || cksum <{path}; }}"


def _from_environment() -> Path | None:
    path = os.environ.get("TINYNAS_BENCHMARK_MODEL")
    return Path(path).expanduser() if path else None


def _warned(warnings: Sequence[str]) -> dict[str, str]:
    return {"warnings": "; ".join(warnings)} if warnings else {}
