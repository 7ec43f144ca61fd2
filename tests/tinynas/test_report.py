"""The report: complete and minimal studies render, the page stands alone, and no text of a study becomes markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tinynas.errors import SearchError
from tinynas.narrowing import Fitting, SubSpace
from tinynas.report import render_report, write_report
from tinynas.report_data import (
    ArenaBuffer,
    Calibration,
    DeviceFacts,
    Download,
    FitFigures,
    LatencyPair,
    LayerCycles,
    Limits,
    MemoryMap,
    Narrowing,
    Rejections,
    ReportCandidate,
    ReportData,
)

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr", "col"}
ATTACK = "<script>alert('x')</script>\"&"


class Page(HTMLParser):
    """Reads a page strictly: elements close in order. Collects them and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, tag: str, style: str | None = None) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (style is None or style in (attributes.get("class") or "").split())
        ]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def candidate(index: int, **changes: object) -> ReportCandidate:
    base = ReportCandidate(
        candidate_id=f"c{index:03d}",
        architecture=f"mobilenet_small-r28-w0.5-k3e{index % 5 + 2}",
        search_accuracy=0.80 + 0.01 * index,
        predicted_before_ms=8.0 + 4 * index,
        energy_mj=0.5 * (index + 1),
        sram_bytes=12_288 + 1024 * index,
        flash_bytes=60_000 + 9_000 * index,
        macs=1_000_000 + 250_000 * index,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


MINIMAL = ReportData(
    study="demo",
    command="tinynas run --device stm32f405 --data fashion-mnist -o studies/demo",
    device=DeviceFacts(
        name="stm32f405",
        description="Cortex-M4F at 168 MHz",
        core="cortex-m4",
        clock_hz=168_000_000,
        sram_bytes=131_072,
        flash_bytes=1_048_576,
        reserved_sram_bytes=4096,
        reserved_flash_bytes=16_384,
        active_power_mw=150.0,
    ),
    limits=Limits(sram_bytes=126_976, flash_bytes=1_032_192),
    data_set="fashion-mnist",
    space="mobilenet_small",
    strategy="evolution",
    objectives=("accuracy", "latency", "SRAM"),
    accuracy_source="supernet",
    trials=600,
    seed=7,
    sampled=0,
)
SUB_SPACES = (
    SubSpace(20, 0.5, 1000, Fitting.of(range(1_000_000, 1_900_000, 1_000)), Fitting.of(range(10))),
    SubSpace(24, 0.5, 1000, Fitting.of(range(2_000_000, 2_500_000, 1_000)), Fitting.of([])),
    SubSpace(
        28, 0.5, 1000, Fitting.of(range(1_500_000, 2_200_000, 1_000)), Fitting.of(range(700_000, 1_000_000, 1_000))
    ),
    SubSpace(28, 0.75, 1000, Fitting.of([]), Fitting.of([])),
)
FILES = (Download("int8.tflite", "artifacts/c003/int8 model.tflite", 45_678, "ab" * 32),)
FULL = replace(
    MINIMAL,
    limits=Limits(sram_bytes=126_976, flash_bytes=1_032_192, latency_ms=40.0, energy_mj=9.0),
    sampled=1312,
    rejected=(Rejections("latency", 1020), Rejections("flash", 40)),
    candidates=(
        *(candidate(index) for index in range(3)),
        candidate(
            3,
            validation_accuracy=0.9145,
            test_accuracy=0.9083,
            predicted_after_ms=30.9,
            measured_ms=31.24,
            is_front=True,
            is_winner=True,
            files=FILES,
        ),
        candidate(4, validation_accuracy=0.9201, predicted_after_ms=36.0, is_front=True),
        candidate(5, search_accuracy=None),
    ),
    calibration=Calibration(
        pairs=(LatencyPair("c003", 20.0, 30.9, 31.24), LatencyPair("c001", 12.0, 14.2, 14.0)),
        before=FitFigures(25.4, 0.912, 12.0),
        after=FitFigures(1.3, None, 100.0),
        note="each network was left out of its own fit",
    ),
    winner_memory=MemoryMap(
        layer_names=("conv", "depthwise", "mean"),
        buffers=(
            ArenaBuffer("input", 0, 784, 0, 0, at_peak=True),
            ArenaBuffer("conv", 784, 14_576, 0, 1, at_peak=True),
            ArenaBuffer("mean", 0, 64, 2, 2),
        ),
        arena_bytes=15_360,
        lower_bound_bytes=14_336,
        sram_limit_bytes=126_976,
    ),
    winner_layers=(
        LayerCycles("stage1/conv", "CONV_2D", 400_000, 840_000.0),
        LayerCycles("stage1/add", "ADD", 0, 3_000.0),
    ),
    layer_source="measured on emulator:stm32f405",
    history=(0.5, 0.8, 0.79, 0.85),
    narrowing=Narrowing(SUB_SPACES, SUB_SPACES[1], samples=1000, seconds=12.34),
    board="emulator:stm32f405",
    toolchain="arm-none-eabi-gcc 12.2.1",
    settings=(("Supernet epochs", "12"),),
    versions=(("torch", "2.13.0"),),
    hashes=(("fashion-mnist", "cd" * 32),),
)
SEARCHING = replace(FULL, candidates=FULL.candidates[:3], calibration=None, winner_memory=None, winner_layers=())


@pytest.fixture(scope="module")
def full() -> Page:
    return Page(render_report(FULL))


@pytest.mark.parametrize("data", [FULL, MINIMAL, SEARCHING], ids=["full", "minimal", "searching"])
def test_page_is_balanced_and_asks_the_network_for_nothing(data: ReportData) -> None:
    text = render_report(data)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert not [marker for marker in ("://", "@import", "url(") if marker in text]
    assert not any("src" in attributes for _, attributes in page.elements)
    assert not page.all("link")
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", page.words)


def test_headline_says_what_was_found(full: Page) -> None:
    assert "90.8 % test accuracy at 31.2 ms on stm32f405, in 15 KiB of SRAM" in full.words
    assert "chosen from 6 that fit, of 1,312 sampled by evolution" in full.words
    assert "measured on board emulator:stm32f405" in full.words


def test_headline_without_test_accuracy_or_measurement_claims_neither() -> None:
    winner = candidate(1, is_winner=True, is_front=True)
    words = Page(render_report(replace(MINIMAL, sampled=9, candidates=(winner,)))).words
    assert "81.0 % validation accuracy at 12.0 ms" in words
    assert "predicted by the cost model, not measured yet" in words
    assert "test accuracy" not in words.split("Candidates")[0]


def test_studies_without_a_winner_say_so() -> None:
    assert "No architecture fits stm32f405 within the limits so far" in Page(render_report(MINIMAL)).words
    words = Page(render_report(SEARCHING)).words
    assert "3 architectures fit stm32f405; no winner has been chosen yet" in words
    assert "Nothing has been measured yet" in words


@pytest.mark.parametrize(
    "number",
    [
        "25.4 %",  # MAPE before the refit
        "0.912",  # Kendall's tau
        "843,000 cycles in all, measured on emulator:stm32f405: 2.11 cycles per",
        "2.10",  # cycles per MAC of the convolution
        "15,360 bytes; the planner's lower bound is 14,336",
        "1,020 by latency, 40 by flash",
        "energy 9 mJ",
        "evolution, 600 trials, seed 7",
        "168 MHz, 150 mW active",
        "128 KiB, 4 KiB of it reserved",
        "45,678",
        "ab" * 32,
        "cd" * 32,
        "arm-none-eabi-gcc 12.2.1",
        "tinynas run --device stm32f405 --data fashion-mnist -o studies/demo",
        "beats in accuracy and latency and SRAM at once",
        "4 evaluations by evolution",
        "Of each of 4 sub-spaces, 1,000 architectures were sampled and planned in 12.3 s",
        "r24-w0.5, 2.25 million, 50.0 % fit",
        "1 r24-w0.52.2550.0 r28-w0.50.85030.0",
    ],
)
def test_number_appears(full: Page, number: str) -> None:
    assert number in full.words


def test_charts_show_every_item_once_per_width(full: Page) -> None:
    widths = 2
    legend = 1
    shared = sum(c.search_accuracy is not None for c in FULL.candidates)
    assert sum("data-tip" in mark for mark in full.all("circle", "candidate")) == widths * shared
    assert len(full.all("circle", "winner")) == widths + legend
    assert len(full.all("polyline", "chosen")) == len(full.all("polyline", "layer-by-layer")) == widths
    assert len(full.all("rect", "buffer")) == widths * 3
    assert len(full.all("rect", "peak")) == widths * 2
    assert len(full.all("circle", "after")) == 2 + legend


def test_marks_stand_where_their_values_are() -> None:
    """Two candidates' circles against the axis labels of the same chart: pixels are linear in ms and in per cent."""
    data = replace(MINIMAL, candidates=(candidate(0), candidate(4), candidate(8)))
    page = Page(render_report(data))
    marks = [mark for mark in page.all("circle", "candidate") if "data-tip" in mark][:3]
    by_latency = sorted((float(mark["cx"] or "nan"), float(mark["cy"] or "nan")) for mark in marks)
    (x0, y0), (x1, y1), (x2, y2) = by_latency
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert x0 < x1
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y1


def test_latency_limit_is_a_line_or_words() -> None:
    near = Page(render_report(FULL))
    assert len(near.all("line", "limit")) == 2
    far = Page(render_report(replace(FULL, limits=replace(FULL.limits, latency_ms=500.0))))
    assert len(far.all("line", "limit")) == 0
    assert "limit 500 ms, right of this chart" in far.words


def test_download_links_stay_below_the_page() -> None:
    hostile = tuple(
        Download(name, path, 1, "00" * 32)
        for name, path in (("a", "javascript:alert(1)"), ("b", "//example.org/x"), ("c", "artifacts/c1/model #1?.onnx"))
    )
    page = Page(render_report(replace(MINIMAL, candidates=(candidate(1, files=hostile),))))
    links = [anchor["href"] for anchor in page.all("a")]
    assert set(links) == {"./javascript%3Aalert%281%29", ".///example.org/x", "./artifacts/c1/model%20%231%3F.onnx"}


def test_every_text_is_escaped() -> None:
    winner = replace(
        FULL.candidates[3], candidate_id=ATTACK, architecture=ATTACK, files=(replace(FILES[0], name=ATTACK),)
    )
    assert FULL.calibration is not None
    assert FULL.winner_memory is not None
    data = replace(
        FULL,
        study=ATTACK,
        command=ATTACK,
        data_set=ATTACK,
        space=ATTACK,
        strategy=ATTACK,
        device=replace(FULL.device, name=ATTACK, description=ATTACK),
        rejected=(Rejections(ATTACK, 1),),
        candidates=(winner, *FULL.candidates[:3]),
        calibration=replace(FULL.calibration, pairs=(LatencyPair(ATTACK, 1.0, 2.0, 3.0),), note=ATTACK),
        winner_memory=replace(FULL.winner_memory, buffers=(ArenaBuffer(ATTACK, 0, 15_360, 0, 2),)),
        winner_layers=(LayerCycles(ATTACK, ATTACK, 1, 1.0),),
        layer_source=ATTACK,
        objectives=(ATTACK,),
        accuracy_source=ATTACK,
        board=ATTACK,
        toolchain=ATTACK,
        settings=((ATTACK, ATTACK),),
        versions=((ATTACK, ATTACK),),
        hashes=((ATTACK, ATTACK),),
    )
    text = render_report(data)
    page = Page(text)
    assert "<script>alert" not in text
    assert len(page.all("script")) == 1
    assert page.text.count(ATTACK) > 20


def test_a_single_candidate_and_empty_network_still_draw() -> None:
    """Nothing to scale by: one point, no pairs, a layer without cycles, a buffer without bytes."""
    assert FULL.calibration is not None
    data = replace(
        FULL,
        candidates=(candidate(0, is_front=True, is_winner=True),),
        calibration=replace(FULL.calibration, pairs=()),
        winner_memory=MemoryMap(("only",), (ArenaBuffer("none", 0, 0, 0, 0),), 0, 0, 126_976),
        winner_layers=(LayerCycles("only", "RESHAPE", 0, 0.0),),
        history=(0.0,),
        narrowing=Narrowing(SUB_SPACES[3:], None, 10, 0.0),
    )
    assert "0 cycles in all" in Page(render_report(data)).words


def test_write_replaces_the_page_whole(tmp_path: Path) -> None:
    path = tmp_path / "study" / "report.html"
    write_report(MINIMAL, path)
    write_report(FULL, path)
    assert path.read_text(encoding="utf-8") == render_report(FULL)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_failed_write_leaves_no_trace_and_one_clear_message(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.mkdir()
    with pytest.raises(SearchError, match=r"report\.html' could not be written \(Is a directory\)"):
        write_report(FULL, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
