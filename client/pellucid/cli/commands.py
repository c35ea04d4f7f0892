"""The subcommands: what they take, and what they ask a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli import tables
from pellucid.cli.ablation_commands import ablate, counterfactual
from pellucid.cli.admin_commands import admin
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
    exit_code,
    fail,
    print_json,
    read_array,
    read_inputs,
    read_json,
    save_arrays,
    served,
    terminal,
)
from pellucid.cli.connecting import connect_by
from pellucid.cli.dissection_commands import dissect
from pellucid.cli.files import check_array_file, check_picture_file, make_picture_folder
from pellucid.cli.job_commands import jobs
from pellucid.cli.values import attributed_arrays, check_once, element, once, parameter, predicted_arrays
from pellucid.client import DEFAULT_ADDRESS
from pellucid.errors import NotFoundError, invalid
from pellucid.results import Attribution, ExplanationOutcome
from pellucid.specs import ExplanationSpec

app = typer.Typer(
    help="Ask a Pellucid server for predictions, what they were based on, and what is inside a model.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.callback()(connect_by)
app.command()(ablate)
app.command()(counterfactual)
app.command()(dissect)
app.add_typer(admin, name="admin")
app.add_typer(jobs, name="jobs")

_TABLES = (".npy", ".csv")


def run() -> None:
    """Run the command and exit: with 2 for the caller's mistakes, with 1 for other failures."""
    app()


@app.command()
def predict(
    model: NameArgument,
    files: FilesArgument = None,
    row: RowOption = None,
    json_row: JsonRowOption = None,
    top_k: Annotated[int, typer.Option(min=0, max=1000, help="How many of the highest classes to name.")] = 5,
    explain: Annotated[
        list[str] | None, typer.Option(metavar="METHOD", help="Explain beside it; once a method.", show_default=False)
    ] = None,
    version: VersionOption = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the explanations' pictures to it.", show_default=False)
    ] = None,
    npz: NpzOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    caller: CallerOption = None,
    priority: PriorityOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask what a model says. Where the prediction is there and an explanation beside it is not, the exit code tells."""
    with asking(address, timeout, caller=caller, priority=priority) as client:
        check_once("--explain", explain or [])
        check_array_file(npz)
        if out is not None:
            make_picture_folder(out)
        inputs = read_inputs(served(client, model, version), files, row, json_row)
        prediction = client.predict(model, inputs, top_k=top_k, explanations=explain or [], version=version)
        if as_json:
            print_json(prediction.to_dict())
        else:
            tables.show_prediction(terminal(), prediction, _row_names(files or []))
        if npz is not None:
            save_arrays(npz, predicted_arrays(prediction))
        if out is not None:
            for outcome in prediction.explanations:
                for number, attribution in enumerate(outcome.attributions):
                    _save_figure(attribution, out / f"{outcome.method}-{number}.png")
        _fail_as(prediction.explanations)


@app.command()
def attribute(
    model: NameArgument,
    files: FilesArgument = None,
    row: RowOption = None,
    json_row: JsonRowOption = None,
    method: Annotated[str, typer.Option(help="The method; `pellucid methods` lists them.")] = "integrated-gradients",
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A parameter of the method.", show_default=False),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="A class's index or label.", show_default="the highest class")
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Why the target rather than this class.", show_default=False)
    ] = None,
    output: Annotated[str | None, typer.Option(help="The output.", show_default="the model's first")] = None,
    space: Annotated[str | None, typer.Option(help="logits or probabilities.", show_default=False)] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="zeros, mean, medoid, blur, background, a picture's file, or rows in a .json or .npy file.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    tolerance: Annotated[
        float | None, typer.Option(help="Error to stay below, as a share of the change.", show_default=False)
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Have no bit of the answer depend on what else the server does; slower.")
    ] = False,
    version: VersionOption = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw the attribution into it.", show_default=False)
    ] = None,
    smooth: Annotated[
        float, typer.Option(min=0, max=100, help="Blur the drawn map by so many of its pixels, for the eye.")
    ] = 0.0,
    npz: NpzOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    caller: CallerOption = None,
    priority: PriorityOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask what a prediction was based on."""
    with asking(address, timeout, caller=caller, priority=priority) as client:
        check_picture_file(out)
        check_array_file(npz)
        inputs = read_inputs(served(client, model, version), files, row, json_row)
        spec = ExplanationSpec(
            method=method,
            parameters=once("--parameter", [parameter(each) for each in parameters or []]),
            target=element(target),
            contrast=element(contrast),
            output=output,
            space=space,  # type: ignore[arg-type]  # checked with the specification
            baseline=_baseline(baseline),
            seed=seed,
            tolerance=tolerance,
            exact=exact,
        )
        attributions = client.attribute_rows(model, inputs, spec, version=version)
        if as_json:
            print_json([each.to_dict() for each in attributions])
        else:
            tables.show_attributions(terminal(), attributions)
        if npz is not None:
            save_arrays(npz, attributed_arrays(attributions))
        if out is not None:
            for number, attribution in enumerate(attributions):
                path = out if number == 0 else out.with_stem(f"{out.stem}-{number}")
                _save_figure(attribution, path, smooth=smooth)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Describe this model.", show_default=False)] = None,
    version: VersionOption = 0,
    layers: Annotated[bool, typer.Option("--layers", help="List the model's layers too.")] = False,
    address: AddressOption = DEFAULT_ADDRESS,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models, or describe one."""
    with asking(address, timeout) as client:
        if name is not None:
            model = client.model(name, version=version)
            if as_json:
                print_json(model.to_dict())
            else:
                tables.show_model(terminal(), model, layers=layers)
            return
        summaries = client.models()
        if as_json:
            print_json([each.to_dict() for each in summaries])
        else:
            tables.show_models(terminal(), summaries)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Describe this method.", show_default=False)] = None,
    address: AddressOption = DEFAULT_ADDRESS,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the methods, or describe one and its parameters."""
    with asking(address, timeout) as client:
        found = client.methods()
        if name is not None:
            found = tuple(each for each in found if each.name == name)
            if not found:
                names = ", ".join(each.name for each in client.methods())
                raise NotFoundError(f"No method {name!r}; installed: {names}.")
        if as_json:
            print_json(found[0].to_dict() if name is not None else [each.to_dict() for each in found])
        elif name is not None:
            tables.show_method(terminal(), found[0])
        else:
            tables.show_methods(terminal(), found)


@app.command()
def datasets(
    address: AddressOption = DEFAULT_ADDRESS,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the data sets beside the models, with their groups and concepts."""
    with asking(address, timeout) as client:
        found = client.datasets()
        if as_json:
            print_json([each.to_dict() for each in found])
        else:
            tables.show_datasets(terminal(), found)


def _fail_as(outcomes: Sequence[ExplanationOutcome]) -> None:
    """End the command if explanations have failed, with a line for each."""
    failed = [(outcome.method, outcome.error) for outcome in outcomes if outcome.error is not None]
    if failed:
        lines = "\nError: ".join(f"{method}: {error}" for method, error in failed)
        fail(lines, max(exit_code(error) for _, error in failed))


def _row_names(files: Sequence[Path]) -> list[str]:
    """Return the rows' names: those of pictures; the rows of one file have none of their own."""
    return [] if any(file.suffix.lower() in _TABLES for file in files) else [str(file) for file in files]


def _baseline(given: str | None) -> Any:
    """Read baseline rows off a file that is no picture; anything else is checked with the specification."""
    if given is not None and given.endswith((".json", ".npy")):
        path = Path(given)
        if not path.is_file():
            raise invalid("--baseline", f"is {given}, but there is no such file")
        return read_json(path, "--baseline") if path.suffix == ".json" else read_array(path, "--baseline")
    return given


def _save_figure(attribution: Attribution, path: Path, *, smooth: float = 0.0) -> None:
    try:
        attribution.plot(smooth=smooth).savefig(path, dpi=120)
    except ImportError:
        fail("Pictures need matplotlib and Pillow: pip install 'pellucid[plot]'", 1)
    except ValueError as error:
        fail(f"{path} cannot be drawn. {error}", 2)
