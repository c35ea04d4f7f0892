"""The subcommands that ask what would be if a part of a model, or of a row, were different."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.ablation_rules import Rule
from pellucid.ablation_specs import AblationSpec
from pellucid.catalogue import Model
from pellucid.cli import ablation_tables
from pellucid.cli.asking import (
    AddressOption,
    CallerOption,
    FilesArgument,
    JsonOption,
    JsonRowOption,
    NameArgument,
    NpzOption,
    PriorityOption,
    RowOption,
    TimeoutOption,
    VersionOption,
    asking,
    note,
    print_json,
    read_array,
    read_inputs,
    read_json,
    save_arrays,
    served,
    terminal,
)
from pellucid.cli.files import check_array_file, check_picture_file
from pellucid.cli.values import check_once, element, interval, once, parameter
from pellucid.client import DEFAULT_ADDRESS
from pellucid.counterfactuals import read_counterfactuals
from pellucid.errors import invalid
from pellucid.interventions import KINDS, Intervention
from pellucid.progress import ProgressOption, line_by_line

_FIELDS = {
    "value": {"constant": "value", "scale": "factor", "noise": "deviation", "steer": "coefficient"},
    "vector": {"constant": "value", "steer": "vector"},
    "reference": {"mean": "reference", "resample": "reference"},
    "draws": {"resample": "draws", "noise": "draws"},
    "per-position": {"mean": "per_position"},
}
"""What the options of an intervention are called by the kinds that take them."""

ParameterOption = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A parameter of the method.", show_default=False),
]
PlotOption = Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the answer into it.", show_default=False)]
ProgressFlag = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress",
        help="Show how far the work is; as lines where standard error is no terminal.",
        show_default="at a terminal",
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
ExactOption = Annotated[
    bool, typer.Option("--exact", help="Have no bit of the answer depend on what else the server does; slower.")
]
OutputOption = Annotated[str | None, typer.Option(help="The output.", show_default="the model's first")]
SpaceOption = Annotated[str | None, typer.Option(help="logits or probabilities.", show_default=False)]
TargetOption = Annotated[str | None, typer.Option(help="A class's index or label.", show_default="the highest class")]


def ablate(
    model: NameArgument,
    files: FilesArgument = None,
    row: RowOption = None,
    json_row: JsonRowOption = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE",
            help="Where: a layer, with [UNITS] and @POSITIONS; [*] is each unit by itself. Once a site.",
            show_default=False,
        ),
    ] = None,
    do: Annotated[str, typer.Option(metavar="KIND", help=f"What becomes of the values: {', '.join(KINDS)}.")] = "zero",
    value: Annotated[
        float | None,
        typer.Option(help="The constant, factor, noise's deviation or steering's coefficient.", show_default=False),
    ] = None,
    vector: Annotated[
        Path | None, typer.Option(metavar="NPY", help="What steering adds, or the constants.", show_default=False)
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="For mean and resample: batch, background or dataset.", show_default=False)
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="For resample and noise: how often.", show_default="8")
    ] = None,
    per_position: Annotated[bool, typer.Option("--per-position", help="For mean: at each position by itself.")] = False,
    source: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For patch: a picture, or rows in .npy, .json or .csv.", show_default=False),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A data set of the server.", show_default=False)] = None,
    method: Annotated[str, typer.Option(help="The method; `pellucid methods` lists them.")] = "ablation",
    parameters: ParameterOption = None,
    target: TargetOption = None,
    contrast: Annotated[
        str | None, typer.Option(help="Measure the target less this class.", show_default=False)
    ] = None,
    output: OutputOption = None,
    space: SpaceOption = None,
    metric: Annotated[
        str | None,
        typer.Option(help="score, probability, logit-difference or kl-divergence.", show_default="score"),
    ] = None,
    seed: SeedOption = 0,
    exact: ExactOption = False,
    version: VersionOption = 0,
    top: Annotated[int, typer.Option(min=1, help="How many effects to print, the largest first.")] = 20,
    plot: PlotOption = None,
    progress: ProgressFlag = None,
    npz: NpzOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    caller: CallerOption = None,
    priority: PriorityOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask what would change if parts of a model were different."""
    with asking(address, timeout, caller=caller, priority=priority) as client:
        check_picture_file(plot, "--plot")
        check_array_file(npz)
        described = served(client, model, version)
        given = {"value": value, "vector": vector, "reference": reference, "draws": draws}
        given["per-position"] = per_position or None
        spec = AblationSpec(
            method=method,
            interventions=_interventions(at or [], do, given),
            parameters=once("--parameter", [parameter(each) for each in parameters or []]),
            target=element(target),
            contrast=element(contrast),
            output=output,
            space=space,  # type: ignore[arg-type]  # checked with the request
            metric=metric,  # type: ignore[arg-type]  # checked with the request
            source=_source(source),
            dataset=dataset,
            seed=seed,
            exact=exact,
        )
        if not at and dataset is None and method != "counterfactual":
            raise invalid("--at", "names no site; name one of those that `pellucid model MODEL --layers` lists")
        inputs = _rows(described, files, row, json_row) if files or row or json_row or dataset is None else None
        found = client.ablate_spec(model, inputs, spec, version=version, progress=reported(progress, method))
        if as_json:
            print_json(found.to_dict())
        else:
            ablation_tables.show_ablation(terminal(), found, top)
        if npz is not None:
            save_arrays(npz, {name: each.values for name, each in found.arrays.items()})
        draw(found, plot)


def counterfactual(
    model: NameArgument,
    files: FilesArgument = None,
    row: RowOption = None,
    json_row: JsonRowOption = None,
    want: Annotated[
        str | None, typer.Option(metavar="CLASS", help="The class to reach.", show_default="any other")
    ] = None,
    minimum: Annotated[float | None, typer.Option(help="Reach a score of at least this.", show_default=False)] = None,
    maximum: Annotated[float | None, typer.Option(help="Reach a score of at most this.", show_default=False)] = None,
    fix: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Leave this column as it is.", show_default=False)
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="COLUMN=LOW:HIGH", help="Keep this column within.", show_default=False),
    ] = None,
    up: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Only increase this column.", show_default=False)
    ] = None,
    down: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Only decrease this column.", show_default=False)
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", "-k", min=1, help="How many, different ones, of each row.", show_default="1")
    ] = None,
    distance: Annotated[str | None, typer.Option(help="The distance to keep small.", show_default=False)] = None,
    method: Annotated[str, typer.Option(help="The method; `pellucid methods` lists them.")] = "counterfactual",
    parameters: ParameterOption = None,
    target: TargetOption = None,
    output: OutputOption = None,
    space: SpaceOption = None,
    seed: SeedOption = 0,
    exact: ExactOption = False,
    version: VersionOption = 0,
    plot: PlotOption = None,
    progress: ProgressFlag = None,
    npz: NpzOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    caller: CallerOption = None,
    priority: PriorityOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for the smallest change of a row that would change the answer."""
    with asking(address, timeout, caller=caller, priority=priority) as client:
        check_picture_file(plot, "--plot")
        check_array_file(npz)
        pairs = [parameter(each) for each in parameters or []]
        pairs += [(name, given) for name, given in (("k", k), ("distance", distance)) if given is not None]
        spec = AblationSpec(
            method=method,
            parameters=once("--parameter", pairs),
            target=element(target),
            output=output,
            space=space,  # type: ignore[arg-type]  # checked with the request
            seed=seed,
            exact=exact,
            wanted=element(want),
            minimum=minimum,
            maximum=maximum,
            columns=_rules(fix or [], ranges or [], up or [], down or []),
        )
        inputs = _rows(served(client, model, version), files, row, json_row)
        found = read_counterfactuals(
            client.ablate_spec(model, inputs, spec, version=version, progress=reported(progress, method))
        )
        if as_json:
            print_json(found.to_dict())
        else:
            ablation_tables.show_counterfactuals(terminal(), found)
        if npz is not None:
            save_arrays(npz, {name: each.values for name, each in found.findings.arrays.items()})
        draw(found, plot)


def reported(wanted: bool | None, method: str) -> ProgressOption:
    """Return how progress is shown: a bar at a terminal; lines elsewhere if they are asked for."""
    at_terminal = sys.stderr is not None and sys.stderr.isatty()
    return line_by_line(method) if wanted and not at_terminal else wanted is not False


def _rows(model: Model, files: list[Path] | None, row: list[str] | None, json_row: Path | None) -> Any:
    """Read the rows as for other commands; a .json file among the files is read as --json-row reads it."""
    if files is not None and len(files) == 1 and files[0].suffix == ".json" and not row and json_row is None:
        return read_json(files[0], "FILE")
    return read_inputs(model, files, row, json_row)


def _source(path: Path | None) -> Any:
    if path is not None and path.suffix in (".json", ".npy"):
        if not path.is_file():
            raise invalid("--source", f"is {path}, but there is no such file")
        return read_json(path, "--source") if path.suffix == ".json" else read_array(path, "--source")
    return path


def _interventions(sites: list[str], kind: str, given: dict[str, Any]) -> list[Intervention]:
    """Return one change of all sites; none where no site is named."""
    if kind not in KINDS:
        raise invalid("--do", f"is {kind!r}; it must be one of {', '.join(KINDS)}")
    options: dict[str, Any] = {}
    for option, value in given.items():
        if value is None:
            continue
        if not sites:
            raise invalid(f"--{option}", "is set, and --at names no site; name one")
        name = _FIELDS[option].get(kind)
        if name is None:
            raise invalid(f"--{option}", f"is set, but --do is {kind}; it is for {', '.join(_FIELDS[option])}")
        if name in options:
            raise invalid(f"--{option}", "is set, and --value too; a constant takes one of the two")
        options[name] = read_array(value, "--vector") if option == "vector" else value
    needed = {"constant": ("value", "--value"), "scale": ("factor", "--value"), "steer": ("vector", "--vector")}
    if kind in needed and needed[kind][0] not in options:
        raise invalid(needed[kind][1], f"is not set, and --do is {kind}; give it")
    return [KINDS[kind](sites, **options)] if sites else []


def _rules(fixed: list[str], ranges: list[str], up: list[str], down: list[str]) -> dict[str, Rule]:
    """Return one rule for each column that an option names."""
    for option, names in (("--fix", fixed), ("--up", up), ("--down", down)):
        check_once(option, names)
    bounds = once("--range", [interval(each) for each in ranges])
    for one, other, names, others in (
        ("--fix", "--range", fixed, bounds),
        ("--fix", "--up", fixed, up),
        ("--fix", "--down", fixed, down),
        ("--up", "--down", up, down),
    ):
        both = next((name for name in names if name in others), None)
        if both is not None:
            raise invalid(one, f"names {both!r}, and so does {other}; leave one of the two out")
    rules = {}
    for name in dict.fromkeys([*fixed, *bounds, *up, *down]):
        low, high = bounds.get(name, (None, None))
        rules[name] = Rule(fixed=name in fixed, minimum=low, maximum=high, only_up=name in up, only_down=name in down)
    return rules


def draw(found: Any, path: Path | None) -> None:
    """Draw an answer into a file; None needs nothing. One that has nothing to draw is no failure."""
    if path is None:
        return
    try:
        figure = found.plot()
    except ValueError as error:
        # The question was a right one, and its answer is shown.
        note(f"{path} was not written: {error}")
        return
    figure.savefig(path, dpi=120)
