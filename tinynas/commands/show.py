"""What each command prints for a person."""

from __future__ import annotations

import shlex
from typing import Any

from tinynas.output import one_line, print_table, say


def devices(result: dict[str, Any]) -> None:
    """The profiles, then the boards."""
    columns = ("name", "core", "MHz", "SRAM KiB", "flash KiB", "for a model KiB", "emulated")
    rows = [
        (
            d["name"],
            d["core"],
            round(d["clock_hz"] / 1e6),
            d["sram_bytes"] // 1024,
            d["flash_bytes"] // 1024,
            d["model_sram_bytes"] // 1024,
            d["emulated"],
        )
        for d in result["devices"]
    ]
    print_table(columns, rows)
    print()
    print_table(("board", "device", "kind"), [(b["name"], b["platform"], b["kind"]) for b in result["boards"]])


def check(result: dict[str, Any]) -> None:
    """The layers, the totals, and the verdict."""
    _layers(result["layers"], "predicted_cycles", "predicted cycles")
    print()
    print(
        f"SRAM   {result['sram_bytes']:>9,} B of {result['sram_limit_bytes']:,} (bound {result['sram_lower_bound']:,})"
    )
    print(f"flash  {result['flash_bytes']:>9,} B of {result['flash_limit_bytes']:,}")
    print(
        f"MACs   {_macs(result)}, predicted latency {result['predicted_latency_ms']:.1f} ms, "
        f"energy {result['predicted_energy_mj']:.2f} mJ"
    )
    print(f"{result['model']} fits on {result['device']}" if result["fits"] else f"{result['model']} does NOT fit:")
    for reason in result["reasons"]:
        print(f"  {reason}")


def _layers(layers: list[dict[str, Any]], cycles: str, cycles_title: str) -> None:
    """One row for each layer; what the optimizer took away, and so runs no kernel, has none."""
    columns = (
        "layer",
        "kind",
        "kernel",
        "output",
        "MACs",
        "live MACs",
        cycles_title,
        "cycles/MAC",
        "µJ",
        "alive B",
        "segment",
    )
    rows = [
        (
            layer["name"][:32],
            layer["kind"],
            (layer["kernel"] or "optimized away").removeprefix("tn_").removesuffix("_s8"),
            "×".join(map(str, layer["output_shape"][1:])),
            layer["macs"],
            layer["live_macs"],
            layer[cycles],
            layer["cycles_per_mac"],
            1e3 * layer["energy_mj"],
            layer["alive_bytes"],
            _segment(layer),
        )
        for layer in layers
    ]
    print_table(columns, rows)


def _segment(layer: dict[str, Any]) -> str:
    if layer["segment"] is None:
        return ""
    return f"{layer['segment']}{', by rows' if layer['streamed'] else ''}"


def _macs(result: dict[str, Any]) -> str:
    live = "" if result["live_macs"] == result["macs"] else f", of them live {result['live_macs']:,}"
    return f"{result['macs']:>9,}{live}"


def files(result: dict[str, Any]) -> None:
    """What was written."""
    for name in result["files"]:
        print(name)
    print(f"SRAM {result['sram_bytes']:,} B, flash {result['flash_bytes']:,} B")


def measurement(result: dict[str, Any]) -> None:
    """The layers, then the totals."""
    if result["cycles"] is None and result["code_bytes"] is None:
        _measurement_on_phone(result)
        return
    _layers(result["layers"], "cycles", "cycles")
    print()
    print(f"{result['model']} on {result['board']} ({result['device']}, {result['clock_hz'] / 1e6:.0f} MHz)")
    counted = [f"{result[key]:,} {key}" for key in ("cycles", "instructions") if result[key] is not None]
    print(", ".join([f"latency {_latency(result)}", f"energy {result['energy_mj']:.2f} mJ", *counted]))
    _kept(result)
    print(f"MACs {_macs(result).strip()}")
    print(f"SRAM {result['sram_bytes']:,} B, flash {result['flash_bytes']:,} B, of it code {result['code_bytes']:,} B")


def _measurement_on_phone(result: dict[str, Any]) -> None:
    """The operators, then the figures and what they go by."""
    rows = [(layer["name"][:60], layer["kind"], layer["latency_ms"], layer["macs"]) for layer in result["layers"]]
    print_table(("operator", "kind", "ms", "MACs"), rows)
    print()
    print(f"{result['model']} on {result['board']} ({result['device']})")
    print(f"latency {_latency(result)}, energy {result['energy_mj']:.2f} mJ, {result['runs']:,} inferences")
    _kept(result)
    for name, value in result["conditions"].items():
        print(f"{name}: {one_line(value)}")


def _kept(result: dict[str, Any]) -> None:
    if result["comparison"] is not None:
        print(_against(result["comparison"]))
    print(f"kept as measurement {result['measurement_id']}: tinynas history {result['measurement_id']}")


def history(result: dict[str, Any]) -> None:
    """One line for each measurement, or all there is to say of one."""
    if result["in_full"]:
        _measurement_in_full(result["measurements"][0])
        return
    columns = (
        "id",
        "time, UTC",
        "model",
        "hash",
        "device",
        "board",
        "latency",
        "cycles",
        "firmware",
        "before",
        "warnings",
    )
    rows = [
        (
            m["id"],
            m["created_at"][:19].replace("T", " "),
            m["model"],
            m["model_id"][:8],
            m["device"],
            m["board"],
            _latency(m),
            m["cycles"],
            m["firmware_sha256"][:8],
            _ratio(m["comparison"]),
            "; ".join(m["statistics"]["warnings"]),
        )
        for m in result["measurements"]
    ]
    print_table(columns, rows)


def _measurement_in_full(m: dict[str, Any]) -> None:
    statistics = m["statistics"]
    model_file = f", file {m['model_sha256']}" if m["model_sha256"] else ""
    lines = (
        ("measurement", f"{m['id']}, {m['created_at']}"),
        ("model", f"{m['model']} ({m['model_id']}{model_file})"),
        ("board", f"{m['board']} ({m['board_kind']}), device {m['device']}, {m['clock_hz'] / 1e6:g} MHz"),
        ("latency", f"{_latency(m)}, of {m['runs']} inferences" if m["runs"] > 1 else _latency(m)),
        ("outliers", ", ".join(f"run {position + 1}" for position in statistics["outliers"])),
        ("drift", _drift(statistics["drift"])),
        ("compared", _against(m["comparison"]) if m["comparison"] is not None else ""),
        ("cycles", f"{m['cycles']:,}" if m["cycles"] is not None else ""),
        ("instructions", f"{m['instructions']:,}" if m["instructions"] is not None else ""),
        ("memory", f"SRAM {m['sram_bytes']:,} B, flash {m['flash_bytes']:,} B, of it code {m['code_bytes']:,} B"),
        ("firmware", m["firmware_sha256"]),
        ("toolchain", m["toolchain"]),
        ("flags", m["compiler_flags"]),
        *m["conditions"].items(),
        ("inputs", m["inputs"]),
        ("host", m["host"]),
        ("tinynas", f"{m['tinynas_version']} {m['git_commit']}".strip()),
        *m["versions"].items(),
        ("note", m["note"]),
        ("to repeat it", f"cd {shlex.quote(m['folder'])} && {m['command']}" if m["command"] else ""),
    )
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        if value:
            print(one_line(f"{name}:").ljust(width + 2) + one_line(value))
    for warning in statistics["warnings"]:
        say(f"warning: {warning}")
    if m["layer_cycles"]:
        print()
        print_table(("layer", "cycles"), list(enumerate(m["layer_cycles"])))
    if m["operators"]:
        print()
        print_table(("operator", "kind", "ms"), [(o["name"], o["kind"], o["latency_ms"]) for o in m["operators"]])


def _latency(m: dict[str, Any]) -> str:
    half_width = m["statistics"]["half_width"]
    precision = f" ± {100 * half_width:.2g} %" if half_width else ""
    return f"{m['latency_ms']:.4g} ms{precision}"


def _drift(drift: dict[str, float] | None) -> str:
    return (
        "" if drift is None else f"{drift['relative']:+.2%} from the first run to the last (p = {drift['p_value']:.2g})"
    )


def _ratio(comparison: dict[str, Any] | None) -> str:
    if comparison is None:
        return ""
    return f"×{comparison['ratio']:.3f}{' REGRESSION' if comparison['is_regression'] else ''}"


def _against(comparison: dict[str, Any]) -> str:
    regression = ", a regression" if comparison["is_regression"] else ""
    return (
        f"{comparison['ratio']:.3f} times the {comparison['latency_ms']:.4g} ms of measurement "
        f"{comparison['measurement_id']}{regression}"
    )


def verification(result: dict[str, Any]) -> None:
    """How many outputs were identical."""
    print(
        f"{result['model']} on {result['board']}: {result['identical']} of {result['inputs']} outputs identical to the "
        f"reference, largest difference {result['max_abs_diff']:g}"
        + (f", where {result['tolerance']:g} is usual between kernels" if "tolerance" in result else "")
    )


def calibration(result: dict[str, Any]) -> None:
    """Before and after, of what was calibrated: the power, the latency model, or both."""
    if "active_power_mw" in result:
        _power(result)
    if "measured" not in result:
        return
    spaces = ", ".join(f"{count} of {space}" for space, count in result["spaces"].items())
    print(f"{result['measured']} networks measured on {result['board']}{f': {spaces}' if spaces else ''}")
    if result["ignored_in_store"]:
        print(
            f"{result['ignored_in_store']} earlier measurements of {result['device']} were left out: other kernels ran "
            "than today's"
        )
    print(
        f"of {result['fitted_on']} in all, each predicted by a fit to others, the mean error went from "
        f"{result['mape_before']:.1f} % to {result['mape_after']:.1f} %: {result['within_5_percent']:.0%} within 5 %, "
        f"{result['within_10_percent']:.0%} within 10 %, Kendall tau {result['kendall_tau']:.3f}"
    )
    print(f"the model fitted on all of them: {result['cost_model']}")


def _power(result: dict[str, Any]) -> None:
    """What the trace says, and what it replaces."""
    print(
        f"{result['energy_mj']:.4g} mJ for an inference of {result['traced_latency_ms']:.4g} ms, the mean of "
        f"{result['inferences']}; {result['device']} draws {result['active_power_mw']:.4g} mW while inferring, and "
        f"{result['active_power_before_mw']:.4g} mW was assumed"
    )
    print(f"used from now on; delete it to go back to the profile's figure: {result['active_power_file']}")


def prediction(result: dict[str, Any]) -> None:
    """Latency and energy."""
    low, high = result["interval_ms"]
    print(
        f"{result['model']} on {result['device']}: {result['latency_ms']:.2f} ms ({low:.2f} to {high:.2f}), "
        f"{result['energy_mj']:.2f} mJ; {result['cost_model']}"
    )


def front(result: dict[str, Any]) -> None:
    """The front as a table."""
    columns = ("id", "accuracy %", "trained, test %", "latency ms", "SRAM B", "flash B", "MACs", "architecture")
    rows = [
        (
            c["candidate"],
            100 * c["accuracy"],
            100 * c["test_accuracy"] if c["test_accuracy"] is not None else None,
            c["latency_ms"],
            c["sram_bytes"],
            c["flash_bytes"],
            c["macs"],
            c["architecture"],
        )
        for c in result["front"]
    ]
    print_table(columns, rows)
    say(f"{result['trials']} candidates evaluated, {result['rejected']} turned away by the limits")


def exported(result: dict[str, Any]) -> None:
    """The files, and how the stages agree."""
    files(result)
    print("accuracy " + ", ".join(f"{stage} {value:.2%}" for stage, value in result["accuracy"].items()))


def path(result: dict[str, Any]) -> None:
    """The page's path."""
    print(result["path"])


def run(result: dict[str, Any]) -> None:
    """The front, then the winner."""
    front(result)
    winner = result["winner"]
    print()
    print(f"winner {winner['candidate']}: {winner['architecture']}")
    print(
        f"{winner['test_accuracy']:.2%} test accuracy, {winner['latency_ms']:.2f} ms measured on {result['board']}, "
        f"{winner['sram_bytes']:,} B SRAM, {winner['flash_bytes']:,} B flash"
    )
    print(
        f"{result['identical']} of {result['inputs']} outputs identical to the reference; error of the latency model "
        f"{result['mape_before']:.1f} %, after {result['measured']} measurements {result['mape_after']:.1f} %"
    )
    print(f"report: {result['path']}")


def phones(result: dict[str, Any]) -> None:
    """How well each phone's costs predict the networks that they were not fitted on, and the costs."""
    columns = ("phone", "Spearman", "before", "Kendall tau", "within 10 %", "mean error %", "in its 90 % interval")
    ranks, shares = ("spearman", "spearman_before", "kendall_tau"), ("within_10_percent", "interval_coverage")
    found = result["phones"]
    rows = []
    for name, phone in found.items():
        within, covered = (f"{phone[key]:.0%}" for key in shares)
        rows.append((name, *(f"{phone[key]:.3f}" for key in ranks), within, phone["mape"], covered))
    print_table(columns, rows)
    print()
    terms = next(iter(found.values()))["costs_ms"]
    costs = [(term, *(f"{phone['costs_ms'][term]:.3g}" for phone in found.values())) for term in terms]
    print_table(("ms for each", *found), costs)
    how = "drawn at random" if result["at_random"] else "chosen because they say most"
    say(f"fitted on {result['measured']} networks of {result['networks']:,}, {how}; judged on the others")
    for name, phone in found.items():
        say(f"{name}: {phone['reading']} (probability {phone['reading_probability']:.0%}); {phone['cost_model']}")


def scan(result: dict[str, Any]) -> None:
    """What was found, and what boards.toml would say of it."""
    if result["ports"]:
        rows = [(p["by_id"] or p["path"], p["usb_serial"], p["product"], p["board"]) for p in result["ports"]]
        print_table(("port", "USB serial", "product", "board"), rows)
    if result["probes"]:
        rows = [(p["id"], p["chip"], ", ".join(p["runners"]), p["board"]) for p in result["probes"]]
        print_table(("probe", "chip", "seen by", "board"), rows)
    if result["phones"]:
        rows = [(p["serial"], p["state"], p["description"], p["board"]) for p in result["phones"]]
        print_table(("phone", "state", "what it is", "board"), rows)
    if not result["ports"] and not result["probes"] and not result["phones"]:
        print("nothing is plugged in")
    for note in result["notes"]:
        say(note)
    if not result["proposed"]:
        return
    print()
    print(result["toml"], end="")
    added = "is added to" if result["written"] else "would be added with --write to"
    say(f"the above {added} {result['boards_file']}")


def board_states(result: dict[str, Any]) -> None:
    """Each board, and what to do where it cannot be used."""
    rows = []
    for state in result["boards"]:
        facts = ", ".join(f"{name} {value}" for name, value in state["facts"].items())
        advice = "; ".join([*state["problems"], *(f"warning: {warning}" for warning in state["warnings"])])
        rows.append((state["board"], state["platform"], state["kind"], state["ok"], facts, advice))
    print_table(("board", "device", "kind", "ok", "what it says", "what to do"), rows)


def lab_measurements(result: dict[str, Any]) -> None:
    """One row for each model."""
    columns = ("model", "board", "latency ms", "cycles", "SRAM B", "flash B", "failed before")
    rows = [
        (
            row["file"],
            row["board"],
            row.get("latency_ms"),
            row.get("cycles"),
            row.get("sram_bytes"),
            row.get("flash_bytes"),
            row.get("error") or "; ".join(f"on {f['board']}: {f['reason']}" for f in row["failures"]),
        )
        for row in result["measurements"]
    ]
    print_table(columns, rows)
