"""What each command prints for a person."""

from __future__ import annotations

from typing import Any

from tinynas.output import print_table, say


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
    _layers(result["layers"], "cycles", "cycles")
    print()
    print(f"{result['model']} on {result['board']} ({result['device']}, {result['clock_hz'] / 1e6:.0f} MHz)")
    instructions = f", {result['instructions']:,} instructions" if result["instructions"] is not None else ""
    print(
        f"latency {result['latency_ms']:.2f} ms, energy {result['energy_mj']:.2f} mJ, "
        f"{result['cycles']:,} cycles{instructions}"
    )
    print(f"MACs {_macs(result).strip()}")
    print(f"SRAM {result['sram_bytes']:,} B, flash {result['flash_bytes']:,} B, of it code {result['code_bytes']:,} B")


def verification(result: dict[str, Any]) -> None:
    """How many outputs were identical."""
    print(
        f"{result['model']} on {result['board']}: {result['identical']} of {result['inputs']} outputs identical to the "
        f"reference, largest difference {result['max_abs_diff']:g}"
    )


def calibration(result: dict[str, Any]) -> None:
    """Before and after, of what was calibrated: the power, the latency model, or both."""
    if "active_power_mw" in result:
        _power(result)
    if "measured" not in result:
        return
    print(
        f"{result['measured']} networks measured on {result['board']}; on the {result['judged_on']} that the fit has "
        f"not seen, the mean error went from {result['mape_before']:.1f} % to {result['mape_after']:.1f} %, "
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
