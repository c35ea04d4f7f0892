"""The subcommands: what they take, and what they ask a server."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from pellucid.catalogue import Model
from pellucid.cli import tables
from pellucid.cli.files import check_array_file, check_picture_file, make_picture_folder
from pellucid.cli.values import attributed_arrays, check_once, element, once, parameter, predicted_arrays, row_value
from pellucid.client import DEFAULT_ADDRESS, Client
from pellucid.errors import InvalidRequestError, NotFoundError, PellucidError, UnsupportedError, broken, invalid
from pellucid.receipts import json_text
from pellucid.results import Attribution, ExplanationOutcome
from pellucid.specs import ExplanationSpec

app = typer.Typer(
    help="Ask a Pellucid server for predictions, and what they were based on.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# The caller's own mistakes, for which another request is the remedy.
_MISTAKES = (InvalidRequestError, NotFoundError, UnsupportedError)

_TABLES = (".npy", ".csv")

AddressOption = Annotated[
    str, typer.Option(envvar="PELLUCID_ADDRESS", help="The server, HOST:PORT.", show_default=True)
]
CallerOption = Annotated[
    str | None,
    typer.Option(
        envvar="PELLUCID_CALLER", help="On whose behalf; the server is fair between callers.", show_default=False
    ),
]
PriorityOption = Annotated[
    str | None,
    typer.Option(envvar="PELLUCID_PRIORITY", help="The class of the request, such as bulk.", show_default=False),
]
TimeoutOption = Annotated[float | None, typer.Option(min=0.001, help="Deadline in seconds.", show_default="30 or 120")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
NameArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name; `pellucid models` lists them.")]
FilesArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILE...", help="Pictures, one .npy array of rows, or one .csv table.", show_default=False),
]
RowOption = Annotated[
    list[str] | None,
    typer.Option("--row", metavar="COLUMN=VALUE", help="A column of a table's row; once a column.", show_default=False),
]
JsonRowOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A table's row, or a list of rows, as JSON; - for stdin.", show_default=False),
]
VersionOption = Annotated[int, typer.Option(min=0, help="The model's version; 0 for the highest.")]
NpzOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the arrays to it.", show_default=False)]


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
    with _asking(address, timeout, caller=caller, priority=priority) as client:
        check_once("--explain", explain or [])
        check_array_file(npz)
        if out is not None:
            make_picture_folder(out)
        inputs = _inputs(_served(client, model, version), files, row, json_row)
        prediction = client.predict(model, inputs, top_k=top_k, explanations=explain or [], version=version)
        if as_json:
            _print_json(prediction.to_dict())
        else:
            tables.show_prediction(_console(), prediction, _row_names(files or []))
        if npz is not None:
            _save_arrays(npz, predicted_arrays(prediction))
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
    with _asking(address, timeout, caller=caller, priority=priority) as client:
        check_picture_file(out)
        check_array_file(npz)
        inputs = _inputs(_served(client, model, version), files, row, json_row)
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
            _print_json([each.to_dict() for each in attributions])
        else:
            tables.show_attributions(_console(), attributions)
        if npz is not None:
            _save_arrays(npz, attributed_arrays(attributions))
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
    with _asking(address, timeout) as client:
        if name is not None:
            model = client.model(name, version=version)
            if as_json:
                _print_json(model.to_dict())
            else:
                tables.show_model(_console(), model, layers=layers)
            return
        summaries = client.models()
        if as_json:
            _print_json([each.to_dict() for each in summaries])
        else:
            tables.show_models(_console(), summaries)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Describe this method.", show_default=False)] = None,
    address: AddressOption = DEFAULT_ADDRESS,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the methods, or describe one and its parameters."""
    with _asking(address, timeout) as client:
        found = client.methods()
        if name is not None:
            found = tuple(each for each in found if each.name == name)
            if not found:
                names = ", ".join(each.name for each in client.methods())
                raise NotFoundError(f"No method {name!r}; installed: {names}.")
        if as_json:
            _print_json(found[0].to_dict() if name is not None else [each.to_dict() for each in found])
        elif name is not None:
            tables.show_method(_console(), found[0])
        else:
            tables.show_methods(_console(), found)


@app.command()
def datasets(
    address: AddressOption = DEFAULT_ADDRESS,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the labelled data sets beside the models."""
    with _asking(address, timeout) as client:
        found = client.datasets()
        if as_json:
            _print_json([each.to_dict() for each in found])
        else:
            tables.show_datasets(_console(), found)


@contextmanager
def _asking(
    address: str, timeout: float | None, *, caller: str | None = None, priority: str | None = None
) -> Iterator[Client]:
    """Give a client; a call that fails ends the command with a line on stderr."""
    try:
        # Somebody is waiting at a terminal: a server that is not there is told within seconds.
        with Client(address, timeout=timeout, caller=caller, priority=priority, wait_for_ready=False) as client:
            yield client
    except PellucidError as error:
        _fail(str(error), _exit_code(error))
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or 'it cannot be read'}.", 1)


def _served(client: Client, name: str, version: int) -> Model:
    """Return the description of a model that is to be asked, or say why it cannot be."""
    model = client.model(name, version=version)
    if model.state == "broken":
        raise broken(model.name, model.version, model.reason)
    return model


def _exit_code(error: PellucidError) -> int:
    return 2 if isinstance(error, _MISTAKES) else 1


def _fail_as(outcomes: Sequence[ExplanationOutcome]) -> None:
    """End the command if explanations have failed, with a line for each."""
    failed = [(outcome.method, outcome.error) for outcome in outcomes if outcome.error is not None]
    if failed:
        lines = "\nError: ".join(f"{method}: {error}" for method, error in failed)
        _fail(lines, max(_exit_code(error) for _, error in failed))


def _fail(message: str, code: int) -> None:
    print(f"Error: {message}", file=sys.stderr)  # noqa: T201 - a command's own words
    raise typer.Exit(code)


def _inputs(model: Model, files: list[Path] | None, row: list[str] | None, json_row: Path | None) -> Any:
    """Read what is to be sent from the command's arguments."""
    given = [what for what, there in (("FILE", files), ("--row", row), ("--json-row", json_row)) if there]
    if len(given) != 1:
        named = " and ".join(given) or "nothing"
        raise invalid("inputs", f"is {named}; give files, or --row for each column, or --json-row")
    if row:
        return once("--row", [row_value(model, each) for each in row])
    if json_row is not None:
        return _json(json_row)
    paths = files or []
    if len(paths) == 1 and paths[0].suffix == ".npy":
        return _array(paths[0])
    return paths


def _row_names(files: Sequence[Path]) -> list[str]:
    """Return the rows' names: those of pictures; the rows of one file have none of their own."""
    return [] if any(file.suffix.lower() in _TABLES for file in files) else [str(file) for file in files]


def _baseline(given: str | None) -> Any:
    """Read baseline rows off a file that is no picture; anything else is checked with the specification."""
    if given is not None and given.endswith((".json", ".npy")):
        path = Path(given)
        if not path.is_file():
            raise invalid("--baseline", f"is {given}, but there is no such file")
        return _json(path, "--baseline") if path.suffix == ".json" else _array(path, "--baseline")
    return given


def _json(path: Path, option: str = "--json-row") -> Any:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        # A name that comes twice would lose a value.
        return json.loads(text, object_pairs_hook=lambda pairs: once(option, pairs))
    except InvalidRequestError:
        raise
    except UnicodeDecodeError as error:
        raise invalid(option, f"{path} is no text in UTF-8; it must be JSON, in UTF-8") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise invalid(option, f"{path} is no JSON from {place} on; it must be an object or a list of such") from error
    except (ValueError, RecursionError) as error:
        what = "is nested too deep, or has a number of too many digits; it must be an object or a list of such"
        raise invalid(option, f"{path} {what}") from error


def _array(path: Path, option: str = "FILE") -> Any:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, OverflowError, MemoryError) as error:
        # Its head may tell of more elements than there are, or than fit the memory.
        raise invalid(option, f"{path} is no array that numpy.save has written") from error


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    # Opened here, as numpy would add an ending to a path without one.
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _save_figure(attribution: Attribution, path: Path, *, smooth: float = 0.0) -> None:
    try:
        attribution.plot(smooth=smooth).savefig(path, dpi=120)
    except ImportError:
        _fail("Pictures need matplotlib and Pillow: pip install 'pellucid[plot]'", 1)
    except ValueError as error:
        _fail(f"{path} cannot be drawn. {error}", 2)


def _print_json(value: Any) -> None:
    print(json_text(value))  # noqa: T201 - a command's own words


def _console() -> Console:
    return Console(highlight=False)
