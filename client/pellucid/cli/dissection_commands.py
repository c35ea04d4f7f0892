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
    read_json,
    save_arrays,
    served,
    terminal,
)
from pellucid.cli.dissection_tables import show_checks, show_dissection
from pellucid.cli.files import check_array_file, check_file, check_picture_file
from pellucid.cli.job_commands import HtmlOption, show_job, write_page
from pellucid.cli.values import element, once, parameter
from pellucid.client import DEFAULT_ADDRESS
from pellucid.dictionaries import DICTIONARY, Dictionary
from pellucid.dissection_specs import DissectionSpec
from pellucid.dissections import Dissection
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
    page: HtmlOption = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            help="What --json printed of another version; print which units detect something else.",
            show_default=False,
        ),
    ] = None,
    allow: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Concepts that units may detect, one on each line; print the units that detect others.",
            show_default=False,
        ),
    ] = None,
    plot: PlotOption = None,
    job: Annotated[
        bool,
        typer.Option(
            "--job", help="Have the server do it by itself, and print the job; `pellucid jobs fetch` reads the answer."
        ),
    ] = False,
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
        if job:
            _check_job({"--html": page, "--plot": plot, "--npz": npz, "--compare": compare, "--allow": allow})
        if dataset is not None and given:
            raise invalid("--input", "is set, and --dataset too; leave one of the two out")
        before = None if compare is None else _dictionary(compare)
        allowed = None if allow is None else _lines(allow)
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
        if job:
            submitted = client.jobs.submit(client.dissect_request(model, spec, version=version), priority=priority)
            show_job(terminal(), submitted, as_json=as_json)
            note(f"`pellucid jobs watch {submitted.id}` follows it; `pellucid jobs fetch` reads its answer.")
            return
        found = client.dissect_spec(model, spec, version=version, progress=reported(progress, method))
        if as_json:
            print_json(found.to_dict() | _checks(found, before, allowed))
        else:
            show_dissection(terminal(), found, top)
            show_checks(terminal(), found, top, before, allowed)
        if npz is not None:
            save_arrays(npz, {name: each.values for name, each in found.arrays.items()})
        draw(found, plot)
        write_page(found, page, *((before, allowed) if DICTIONARY in found.tables else (None, None)))


def _check_job(options: dict[str, Path | None]) -> None:
    """Refuse options that need the answer, which a submitted job has not yet."""
    for name, path in options.items():
        if path is not None:
            raise invalid("--job", f"has no answer yet, and {name} needs one; give --html and --plot to `jobs fetch`")


def _checks(found: Dissection, before: Dictionary | None, allowed: list[str] | None) -> dict[str, Any]:
    """Return what JSON has besides the answer: how it differs from another version, and what is not allowed."""
    checks: dict[str, Any] = {}
    if DICTIONARY not in found.tables:
        return checks
    if before is not None:
        checks["comparison"] = before.compare(found.dictionary).to_dict()
    if allowed is not None:
        checks["audit"] = [each.to_dict() for each in found.dictionary.audit(allowed)]
    return checks


def _dictionary(path: Path) -> Dictionary:
    """Read the dictionary of an answer that was printed as JSON."""
    what = f"{path} is no answer with a dictionary; it must be what `pellucid dissect --json` printed"
    found = read_json(path, "--compare")
    try:
        return Dictionary.of(found["tables"][DICTIONARY])
    except (LookupError, TypeError, AttributeError) as error:
        raise invalid("--compare", what) from error


def _lines(path: Path) -> list[str]:
    """Read texts off a file, one on each line; empty lines say nothing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise invalid("--allow", f"{path} is no text in UTF-8") from error
    return [line.strip() for line in lines if line.strip()]
