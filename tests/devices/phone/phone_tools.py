"""What a stand-in phone has: commands that answer like Android's, and a benchmark_model whose every figure is known."""

from __future__ import annotations

from pathlib import Path

from tests.devices.phone.fake_adbd import FakePhone

OUTPUT_BYTES = 65
OPERATORS = (("[conv]:0", "CONV_2D", 0.75), ("[dense, in two parts]:1", "FULLY_CONNECTED", 0.25))
"""Names, kinds, and shares of the latency."""

# Another one that runs beside it slows it down, as it would on a phone: what is left over of a broken connection.
BENCHMARK_MODEL = r"""
mkdir -p $PHONE/running
for p in $PHONE/running/*; do q=${p##*/}; [ -e "$p" ] && kill -0 $q 2>/dev/null && busy=1; done
echo >$PHONE/running/$$
trap 'rm -f $PHONE/running/$$' EXIT
echo "$*" >>$PHONE/calls
runs=50
for a in "$@"; do
  v=${a#*=}
  case $a in
    --graph=*) graph=$v ;;
    --num_runs=*) runs=$v ;;
    --enable_op_profiling=true) profile=1 ;;
    --input_layer_value_files=input:*) input=${a#*:} ;;
    --output_filepath=*) output=$v ;;
  esac
done
[ -s "$graph" ] || { echo "ERROR: Failed to load model $graph" >&2; exit 1; }
sleep $(cat $PHONE/duration_s 2>/dev/null || echo 0)
us=$(cat $PHONE/latency_us)
[ -n "$busy" ] && us=$((us * 2))
[ -n "$output" ] && cat "$graph" "$input" | sha256sum | cut -c1-64 >"$output"
echo "INFO: STARTING!"
echo "INFO: Graph: [$graph]"
echo "INFO: Loaded model $graph"
echo "INFO: Initialized session in 1.5ms."
echo "INFO: Explicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate."
echo "INFO: count=1 curr=$((us * 3))"
echo
echo "INFO: count=$runs first=$((us + 2)) curr=$us min=$((us - 2)) max=$((us + 9)) avg=$us.5 std=3"
echo
echo "INFO: Inference timings in us: Init: 1500, First inference: $((us * 3)), Warmup (avg): $((us * 3)), " \
  "Inference (avg): $us.5" | tr -s " "
echo "INFO: Memory footprint delta from the start of the tool (MB): init=2.5 overall=6.25"
[ -n "$profile" ] || exit 0
for title in "Run Order" "Top by Computation Time"; do
  echo "============================== $title =============================="
  printf '\t%24s\t%9s\t%9s\t%8s\t%8s\t%10s\t%9s\t%s\n' "[node type]" "[first]" "[avg ms]" "[%]" "[cdf%]" "[mem KB]" \
    "[times called]" "[Name]"
  awk -v us=$us 'BEGIN {
    printf "\t%24s\t%9.3f\t%9.3f\t%7.3f%%\t%7.3f%%\t%10.3f\t%9d\t%s\n", "CONV_2D", us / 1000, us * 0.75 / 1000, 75, 75,
      0, 1, "[conv]:0"
    printf "\t%24s\t%9.3f\t%9.3f\t%7.3f%%\t%7.3f%%\t%10.3f\t%9d\t%s\n", "FULLY_CONNECTED", us / 1000,
      us * 0.25 / 1000, 25, 100, 0, 1, "[dense, in two parts]:1"
  }'
  echo
done
"""

COMMANDS = {
    "taskset": 'echo "$1" >>$PHONE/masks; shift; exec "$@"',
    "getprop": """case $1 in
  ro.product.model) echo "Stand-in 1" ;;
  ro.build.fingerprint) echo "maker/standin/standin:10/QP1A/1:user/release-keys" ;;
  ro.product.cpu.abi) echo arm64-v8a ;;
esac""",
    "dumpsys": """case $1 in
  thermalservice) printf 'IsStatusOverride: false\\nThermal Status: %s\\nCurrent temperatures from HAL:\\n' \
$(cat $PHONE/thermal_status 2>/dev/null || echo 0)
    printf '\\tTemperature{mValue=41.5, mType=0, mName=cpu-big, mStatus=0}\\n' ;;
  battery) printf 'Current Battery Service state:\\n  AC powered: false\\n  USB powered: true\\n  level: 85\\n'
    printf '  temperature: 275\\n' ;;
  power) echo '  mWakefulness=Asleep' ;;
esac""",
    "settings": "echo 0",
}


def make_phone(
    folder: Path, latency_us: int = 12345, cores: tuple[int, ...] = (1900800, 1900800, 2457600, 2457600)
) -> FakePhone:
    """A phone with all of that, and with cores of these clocks in kHz."""
    phone = FakePhone(folder)
    for name, script in COMMANDS.items():
        phone.install(name, script)
    for number, clock_khz in enumerate(cores):
        cpu = folder / f"sys/devices/system/cpu/cpu{number}"
        (cpu / "cpufreq").mkdir(parents=True)
        (cpu / "online").write_text("1\n")
        for file in ("cpuinfo_max_freq", "scaling_max_freq", "scaling_cur_freq"):
            (cpu / "cpufreq" / file).write_text(f"{clock_khz}\n")
        (cpu / "cpufreq/scaling_governor").write_text("schedutil\n")
    set_latency(phone, latency_us)
    return phone


def set_latency(phone: FakePhone, latency_us: int) -> None:
    """What the next inferences take: half a microsecond more than that."""
    (phone.folder / "latency_us").write_text(f"{latency_us}\n")


def write_benchmark_model(path: Path) -> Path:
    """The known benchmark_model as a file of this machine, to be pushed."""
    path.write_text("#!/bin/sh\n" + BENCHMARK_MODEL)
    return path
