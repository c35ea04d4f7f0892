"""The subcommand that asks what a network has learnt inside."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli.ablation_commands import (
    ExactOption,
    OutputOption,
    PlotOption,
    ProgressFlag,
    SeedOption,
    draw,
    reported,
)
from pellucid.cli.asking import (
    AddressOption,
    CallerOption,
    JsonOption,
    NameArgument,
    NpzOption,
    PriorityOption,
    TimeoutOption,
    VersionOption,
    asking,
    note,
    print_json,
    read_inputs,
    save_arrays,
    served,
    terminal,
)
from pellucid.cli.dissection_tables import show_dissection
from pellucid.cli.files import check_array_file, check_file, check_picture_file
from pellucid.cli.values import element, once, parameter
from pellucid.client import DEFAULT_ADDRESS
from pellucid.dissection_specs import DissectionSpec
from pellucid.errors import invalid

LayersArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="LAYER...",
        help='Layers, as `pellucid models MODEL --layers` lists them; "conv1[3-7]" for some units, "block*" for all '
        "that match.",
        show_default=False,
    ),
]
RowsOption = Annotated[int, typer.Option(min=0, help="Read at most so many rows; 0 for all.")]


def dissect(
    model: NameArgument,
    layers: LayersArgument = None,
    method: Annotated[str, typer.Option(help="The method; `pellucid methods` lists them.")] = "network-dissection",
    dataset: Annotated[
        str | None, typer.Option(help="The data set of the server whose rows are looked at.", show_default=False)
    ] = None,
    given: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Rows of your own in its place: pictures, one .npy array, or one .csv table.",
            show_default=False,
        ),
    ] = None,
    rows: RowsOption = 0,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "--param",
            "-p",
            metavar="NAME=VALUE",
            help="A parameter of the method; `pellucid methods METHOD` lists them.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="A class's index or label, for methods that work towards one.", show_default="the layers' units"
        ),
    ] = None,
    output: OutputOption = None,
    seed: SeedOption = 0,
    exact: ExactOption = False,
    version: VersionOption = 0,
    top: Annotated[int, typer.Option(min=1, help="How many rows of each table to print.")] = 20,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page to it, to search and sort.", show_default=False),
    ] = None,
    plot: PlotOption = None,
    progress: ProgressFlag = None,
    npz: NpzOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    caller: CallerOption = None,
    priority: PriorityOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask what a network has learnt inside: which unit stands for what, what it answers to, how a layer sees rows."""
    with asking(address, timeout, caller=caller, priority=priority) as client:
        check_file(page, "--html")
        check_picture_file(plot, "--plot")
        check_array_file(npz)
        if dataset is not None and given:
            raise invalid("--input", "is set, and --dataset too; leave one of the two out")
        inputs: Any = read_inputs(served(client, model, version), given, None, None) if given else None
        spec = DissectionSpec(
            method=method,
            layers=layers or [],
            parameters=once("--parameter", [parameter(each) for each in parameters or []]),
            dataset=dataset,
            inputs=inputs,
            rows=rows,
            target=element(target),
            output=output,
            seed=seed,
            exact=exact,
        )
        found = client.dissect_spec(model, spec, version=version, progress=reported(progress, method))
        if as_json:
            print_json(found.to_dict())
        else:
            show_dissection(terminal(), found, top)
        if npz is not None:
            save_arrays(npz, {name: each.values for name, each in found.arrays.items()})
        draw(found, plot)
        if page is not None:
            size = found.to_html(page)
            note(f"{page} has {size:,} bytes; open it in a browser.")
