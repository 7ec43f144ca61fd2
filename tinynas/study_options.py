"""The options that decide a study, written once for the commands that take them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinynas.effort import SMALL_DATA, Effort

if TYPE_CHECKING:  # pydantic takes a while to load, and --help does without it
    from tinynas.study import StudySettings

_USUAL = f"By default the usual number, which is larger for less than {SMALL_DATA:,} training inputs."


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What is searched, for what, how, and with how much work."""

    data: Annotated[
        str, typer.Option("--data", help="fashion-mnist, smartwatch, a folder of images by class, or an .npz file.")
    ]
    out: Annotated[Path, typer.Option("-o", "--out", help="The study's folder; an existing study is resumed.")]
    space: Annotated[
        str | None,
        typer.Option("--space", help="A search space or the .toml file of one; by default the one for the data."),
    ] = None
    narrow: Annotated[
        bool, typer.Option("--narrow/--no-narrow", help="Search the one resolution and width with the most room.")
    ] = False
    narrow_samples: Annotated[
        int, typer.Option("--narrow-samples", min=1, help="Architectures to sample of each resolution and width.")
    ] = 1000
    strategy: Annotated[
        str,
        typer.Option("--strategy", help="grid, random, evolution, aging-evolution, reinforce or differentiable."),
    ] = "evolution"
    objective: Annotated[
        str,
        typer.Option("--objective", help="What to improve: some of accuracy, latency, energy, sram, flash and macs."),
    ] = "accuracy,latency"
    trials: Annotated[int, typer.Option("--trials", min=1, help="Candidates to evaluate.")] = 150
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same search.")] = 0
    max_latency_ms: Annotated[
        float | None, typer.Option("--max-latency-ms", help="Limit on the latency of one inference.")
    ] = None
    max_energy_mj: Annotated[
        float | None, typer.Option("--max-energy-mj", help="Limit on the energy of one inference.")
    ] = None
    max_sram: Annotated[float | None, typer.Option("--max-sram", help="Limit on the arena, in bytes.")] = None
    max_flash: Annotated[float | None, typer.Option("--max-flash", help="Limit on the flash, in bytes.")] = None
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME=VALUE", help="Any limit by its name, as in max_sram_bytes=40000."),
    ] = None
    accuracy: Annotated[
        str,
        typer.Option(
            "--accuracy",
            help="How it is found: supernet, predictor (the supernet, after a first choice), or scratch.",
        ),
    ] = "supernet"
    supernet_epochs: Annotated[
        int | None,
        typer.Option("--supernet-epochs", min=1, help=f"Epochs of the weight-sharing supernet. {_USUAL}"),
    ] = None
    scratch_epochs: Annotated[
        int | None,
        typer.Option("--scratch-epochs", min=1, help=f"Most epochs of a candidate with --accuracy scratch. {_USUAL}"),
    ] = None
    finalists: Annotated[int, typer.Option("--finalists", min=1, help="How many of the front are trained.")] = (
        Effort.finalists
    )
    final_epochs: Annotated[
        int | None, typer.Option("--final-epochs", min=1, help=f"Epochs of each of them. {_USUAL}")
    ] = None

    def settings(self, device: str) -> StudySettings:
        """The settings of a study for ``device``. Raises SearchError for whatever they name that there is not."""
        from tinynas.objectives import parse_objectives
        from tinynas.workspace import make_settings

        effort = {
            "supernet_epochs": self.supernet_epochs,
            "scratch_epochs": self.scratch_epochs,
            "finalists": self.finalists,
            "finalist_epochs": self.final_epochs,
        }
        return make_settings(
            device=device,
            data_name=self.data,
            space_name=self.space,
            strategy=self.strategy,
            trials=self.trials,
            seed=self.seed,
            limits=self._limits(),
            training={name: value for name, value in effort.items() if value is not None},
            accuracy=self.accuracy,
            objectives=parse_objectives(self.objective),
            narrow_samples=self.narrow_samples if self.narrow else 0,
        )

    def _limits(self) -> dict[str, float]:
        from tinynas.errors import SearchError

        given = {
            "max_latency_ms": self.max_latency_ms,
            "max_energy_mj": self.max_energy_mj,
            "max_sram_bytes": self.max_sram,
            "max_flash_bytes": self.max_flash,
        }
        limits = {name: value for name, value in given.items() if value is not None}
        for text in self.limit or []:
            name, _, value = text.partition("=")
            try:
                limits[name.strip()] = float(value)
            except ValueError:
                raise SearchError(
                    f"'--limit {text}' is not NAME=VALUE with a number, as in max_sram_bytes=40000"
                ) from None
        return limits


def takes_study_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ``StudyOptions`` before its own; it gets them as one argument, ``options``."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
    shared = inspect.signature(StudyOptions, eval_str=True).parameters.values()

    def with_options(**given: Any) -> None:
        options = StudyOptions(**{field.name: given.pop(field.name) for field in fields(StudyOptions)})
        command(options=options, **given)

    with_options.__doc__ = command.__doc__
    with_options.__name__ = command.__name__
    # typer reads the options from here.
    with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*shared, *own)]
    )
    return with_options
