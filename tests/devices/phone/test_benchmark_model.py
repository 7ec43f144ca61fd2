"""Every form of benchmark_model's output is read, and nothing else is."""

from __future__ import annotations

import random

import pytest

from devices.phone.benchmark_model import BenchmarkOutputError, parse_report

WARMUP = "count=1 curr=3512391"
NEW = "count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798"
PERCENTILES = " p5=2728000 median=2913402 p95=3180000"
SUMMARY = "Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, "
SUMMARY += "Inference (avg): 2.95034e+06"
MEMORY = "Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859"
ALIGNED = """============================== Run Order ==============================
\t             [node type]\t  [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t                 CONV_2D\t    0.000\t    4.269\t    4.269\t  0.107%\t  0.107%\t     0.000\t        1\t[a, b]:0
\tConvolution (NHWC, QC8) IGEMM\t    0.000\t    2.15\t    2.150\t  0.1%\t  0.1%\t     0.000\t        1\tDelegate/Conv:1

============================== Top by Computation Time ==============================
"""
CSV = """============================== Run Order ==============================
node type, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 4.269, 4.269, 0.107%, 0.107%, 0, 1, [a, b]:0
Convolution (NHWC, QC8) IGEMM, 2.15, 2.15, 0.1%, 0.1%, 0, 1, Delegate/Conv:1

============================== Top by Computation Time ==============================
"""


def report(*lines: str, prefix: str = "") -> str:
    return "\n\n".join(prefix + line for line in lines) + "\n"


@pytest.mark.parametrize("prefix", ["", "INFO: "])
@pytest.mark.parametrize("statistics", [NEW, NEW + PERCENTILES])
def test_the_second_line_is_the_measurement(prefix: str, statistics: str) -> None:
    found = parse_report(report("STARTING!", WARMUP, statistics, SUMMARY, MEMORY, prefix=prefix))
    assert (found.inference.count, found.inference.mean_us) == (50, 2950340.0)
    assert found.warmup is not None
    assert found.warmup.mean_us == 3512391.0
    assert (found.init_us, found.memory_init_mib, found.memory_overall_mib) == (17187.0, 4.21094, 46.0859)


@pytest.mark.parametrize(
    ("warmup", "statistics", "summary", "mean_us"),
    [
        ("count=0", "count=1 curr=250", "Inference timings in us: Init: 1, Inference (avg): 250", 250.0),
        ("count=0", "count=9 curr=250(all same)", "Inference timings in us: Inference (avg): 250", 250.0),
        ("count=0", "count=1 curr=9", "Inference timings in us: Warmup (avg): nan, Inference (avg): 9", 9.0),
        (
            "count=1 curr=9",
            "count=9 curr=8(all same) p5=8 median=8",
            "Inference timings in us: Inference (avg): 8",
            8.0,
        ),
        (
            "count=1 curr=146161",
            "count=50 first=137789 curr=137254 min=137079 max=143416 avg=137722 std=896",
            "Average inference timings in us: Warmup: 146161, Init: 4452, no stats: 137722",
            137722.0,
        ),
        (
            "count=1 curr=9",
            "count=2 first=1 curr=2 min=1 max=2 avg=1.5 std=0",
            "Average inference timings in us: Warmup: 9, Init: 4, no stats: 1",
            1.5,
        ),
    ],
)
def test_other_forms(warmup: str, statistics: str, summary: str, mean_us: float) -> None:
    assert parse_report(report(warmup, statistics, summary)).inference.mean_us == mean_us


def test_a_summary_that_is_printed_twice_is_one() -> None:
    assert parse_report(report(WARMUP, NEW, SUMMARY, SUMMARY)).inference.count == 50


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"both lines of statistics .* it printed nothing"),
        (["ERROR: Failed to load model x"], r"both lines of statistics .* Failed to load model x"),
        ([NEW, SUMMARY], r"the second line of statistics"),
        ([WARMUP, NEW], r"did not print its summary \(Inference timings in us"),
        ([WARMUP, WARMUP, NEW, SUMMARY], r"3 lines of statistics"),
        ([WARMUP, "count=0", SUMMARY], r"timed no inference"),
        ([WARMUP, "count=5 curr=7", SUMMARY], r"not as it should be"),
        ([WARMUP, "count=50 first=1 curr=1 min=1 max=1 avg=nan std=0", SUMMARY], r"not as it should be"),
        ([WARMUP, "count=50 first=1 curr=1 min=2 max=3 avg=2 std=0", SUMMARY], r"not as it should be"),
        ([WARMUP, "count=50 curr=-4(all same)", SUMMARY], r"not"),
        ([WARMUP, "count=50 curr=0(all same)", SUMMARY], r"no duration"),
        ([WARMUP, NEW[:60], SUMMARY], r"not as it should be"),
        ([WARMUP, NEW, SUMMARY.replace("2.95034e+06", "2.95134e+06")], r"two means of the inferences"),
        ([WARMUP, NEW, SUMMARY.replace("2.95034e+06", "2.950")], r"two means of the inferences"),
        ([WARMUP, NEW, SUMMARY[:60]], r"lacks the mean|not as it should be"),
        ([WARMUP, NEW, SUMMARY, SUMMARY.replace("Init: 17", "Init: 18")], r"two summaries that differ"),
    ],
)
def test_what_is_missing_or_wrong_is_named_and_no_number(lines: list[str], message: str) -> None:
    with pytest.raises(BenchmarkOutputError, match=message):
        parse_report(report(*lines))


@pytest.mark.parametrize("table", [ALIGNED, CSV])
def test_operators_in_run_order(table: str) -> None:
    found = parse_report(report(WARMUP, NEW, SUMMARY) + table, profiled=True)
    assert [(o.name, o.kind, o.latency_ms) for o in found.operators] == [
        ("[a, b]:0", "CONV_2D", 4.269),
        ("Delegate/Conv:1", "Convolution (NHWC, QC8) IGEMM", 2.15),
    ]


def test_only_the_runs_of_the_graph_itself_are_taken() -> None:
    start = "Profiling Info for Benchmark Initialization:\n" + ALIGNED.replace("CONV_2D", "AllocateTensors")
    runs = "Operator-wise Profiling Info for Regular Benchmark Runs:\n"
    inside = "Delegate internal: \n" + ALIGNED.replace("[a, b]:0", "inside")
    found = parse_report(report(WARMUP, NEW, SUMMARY) + start + runs + ALIGNED + inside, profiled=True)
    assert [operator.kind for operator in found.operators] == ["CONV_2D", "Convolution (NHWC, QC8) IGEMM"]
    assert found.delegate_operators[0].name == "inside"


def test_without_a_table_there_are_no_operators() -> None:
    assert parse_report(report(WARMUP, NEW, SUMMARY), profiled=True).operators == ()


@pytest.mark.parametrize("table", [ALIGNED, CSV])
def test_half_a_table_is_refused(table: str) -> None:
    end = table.index("====", 60)
    for at in (table.index("[a, b]"), end):
        with pytest.raises(BenchmarkOutputError, match="table of operators"):
            parse_report(report(WARMUP, NEW, SUMMARY) + table[:at], profiled=True)
    with pytest.raises(BenchmarkOutputError, match="damaged row"):
        parse_report(report(WARMUP, NEW, SUMMARY) + table.replace("0.107%", "0.1 07%", 1), profiled=True)


def test_what_became_of_the_delegate_and_of_flags() -> None:
    said = "Explicitly applied XNNPACK delegate, and the model graph will be partially executed by the delegate w/ 3 "
    said += "delegate kernels."
    ignored = "WARN: Unconsumed cmdline flags: --use_xnnpack=true --x=1"
    found = parse_report(report(said, ignored, WARMUP, NEW, SUMMARY))
    assert found.delegate == "XNNPACK, part of the graph"
    assert found.ignored_flags == ("--use_xnnpack=true", "--x=1")


def test_no_damage_to_the_figures_goes_unnoticed_as_another_number() -> None:
    """Whatever one byte becomes, the mean is the one that was printed or there is an error."""
    text = report(WARMUP, NEW, SUMMARY)
    rng = random.Random(0)
    for _ in range(3000):
        at = rng.randrange(len(text))
        damaged = text[:at] + chr(rng.randrange(32, 127)) + text[at + 1 :]
        try:
            found = parse_report(damaged)
        except BenchmarkOutputError:
            continue
        assert found.inference.mean_us == pytest.approx(2950340.0, rel=2.1e-5)
