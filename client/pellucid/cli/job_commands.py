"""The subcommands of `pellucid jobs`: long requests that a server does by itself."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pellucid.cli.ablation_commands import PlotOption, draw
from pellucid.cli.asking import (
    AddressOption,
    JsonOption,
    NpzOption,
    TimeoutOption,
    asking,
    note,
    print_json,
    save_arrays,
    terminal,
)
from pellucid.cli.files import check_array_file, check_file, check_picture_file
from pellucid.cli.tables import say, show_table
from pellucid.client import DEFAULT_ADDRESS
from pellucid.dictionaries import Dictionary
from pellucid.dissections import Dissection
from pellucid.errors import invalid
from pellucid.findings import Findings
from pellucid.job_records import STATES, Job, JobState

jobs = typer.Typer(
    help="Watch, fetch and delete jobs: long requests that the server does by itself.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_IdArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id; `pellucid jobs list` shows it.")]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page to it, to search and sort.", show_default=False),
]
_STYLES = {"done": "green", "failed": "bold red", "cancelled": "yellow", "running": "bold", "queued": "dim"}


@jobs.command("list")
def list_jobs(
    model: Annotated[str, typer.Option(metavar="MODEL", help="Of this model alone.", show_default=False)] = "",
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help=f"In this state: {', '.join(STATES)}.", show_default=False)
    ] = None,
    address: AddressOption = DEFAULT_ADDRESS,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your jobs, the newest first."""
    with asking(address, timeout) as client:
        found = client.jobs.list(model=model, states=cast(list[JobState], state or []))
        if as_json:
            print_json([each.to_dict() for each in found])
            return
        rows = [_row(each) for each in found]
        heads = ["job", "state", "progress", "method", "model", "submitted", "stored"]
        # An id is what the next command needs: it stays in one piece.
        show_table(terminal(), heads, rows, right=(6,), whole=(0, 1))


@jobs.command()
def show(
    job: _IdArgument,
    address: AddressOption = DEFAULT_ADDRESS,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a job."""
    with asking(address, timeout) as client:
        show_job(terminal(), client.jobs.get(job), as_json=as_json)


@jobs.command()
def watch(
    job: _IdArgument,
    address: AddressOption = DEFAULT_ADDRESS,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="How long to watch, in seconds.", show_default="until it has ended")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far a job is until it has ended, also while the server is started again. With --json, line by line."""
    with asking(address, None) as client:
        client.jobs.get(job)
    with asking(address, None, patient=True) as client:
        if as_json:
            for each in client.jobs.watch(job, timeout=timeout):
                print_json(each.to_dict())
            return
        console = terminal()
        with Live(console=console, transient=True, refresh_per_second=5) as live:
            for each in client.jobs.watch(job, timeout=timeout):
                live.update(Text(f"{each.state}, {_progress(each)}"))
        show_job(console, each, as_json=False)
        if each.failure is not None:
            raise each.failure


@jobs.command()
def cancel(
    job: _IdArgument,
    address: AddressOption = DEFAULT_ADDRESS,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a job's work; its answer is not stored."""
    with asking(address, timeout) as client:
        show_job(terminal(), client.jobs.cancel(job), as_json=as_json)


@jobs.command()
def delete(
    listed: Annotated[list[str], typer.Argument(metavar="JOB...", help="The jobs' ids.")],
    address: AddressOption = DEFAULT_ADDRESS,
    timeout: TimeoutOption = None,
) -> None:
    """Remove jobs, and all that belongs to them, from the server."""
    with asking(address, timeout) as client:
        for each in listed:
            client.jobs.delete(each)


@jobs.command()
def fetch(
    job: _IdArgument,
    page: HtmlOption = None,
    plot: PlotOption = None,
    npz: NpzOption = None,
    address: AddressOption = DEFAULT_ADDRESS,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch the answer of a job that is done."""
    with asking(address, timeout) as client:
        check_file(page, "--html")
        check_picture_file(plot, "--plot")
        check_array_file(npz)
        found = client.jobs.fetch(job)
        if (page is not None or plot is not None) and found.dissection is None:
            raise invalid("--html" if page is not None else "--plot", "is for answers of Dissect, and this is another")
        if as_json:
            print_json(found.to_dict())
        else:
            _show_findings(terminal(), found)
        if npz is not None:
            save_arrays(npz, {name: each.values for name, each in found.arrays.items()})
        if found.dissection is not None:
            dissection = Dissection.of(found)
            draw(dissection, plot)
            write_page(dissection, page)


def write_page(
    found: Dissection, page: Path | None, before: Dictionary | None = None, allowed: list[str] | None = None
) -> None:
    """Write a dissection's page where one is asked for, and say how large it is."""
    if page is not None:
        size = found.to_html(page, before=before, allowed=allowed)
        note(f"{page} has {size:,} bytes; open it in a browser.")


def _row(job: Job) -> list[str]:
    left = job.progress.seconds_left
    done = f"{job.progress.share:.0%}" + ("" if left is None else f", {left:.0f} s left")
    return [job.id, job.state, done, job.method, _model(job), _time(job.created), _size(job.size_bytes)]


def show_job(console: Console, job: Job, *, as_json: bool) -> None:
    """Print a job: what is asked, how far it is, what is stored."""
    if as_json:
        print_json(job.to_dict())
        return
    say(console, f"{job.id}: {job.state}", style=_STYLES[job.state])
    rows = [
        ["request", f"{job.rpc} {job.method}"],
        ["model", f"{_model(job)}, digest {job.model.digest[:12]}"],
        ["data set", job.dataset],
        ["progress", _progress(job)],
        ["submitted", _time(job.created)],
        ["begun", _time(job.started)],
        ["ended", _time(job.ended)],
        ["removed on", _time(job.expires)],
        ["stored", f"{job.parts} parts, {_size(job.size_bytes)}"],
        ["went on after a loss", f"{job.resumed} times" if job.resumed else ""],
        ["owner", job.owner],
        ["failure", "" if job.failure is None else str(job.failure)],
    ]
    show_table(console, ["", ""], [row for row in rows if row[1]])


def _show_findings(console: Console, found: Findings) -> None:
    """Say what there is in an answer; its numbers are for files."""
    rows: list[list[str]] = []
    rows += [
        [name, "table", f"{len(each)} rows: {', '.join(each.columns)}", each.text]
        for name, each in found.tables.items()
    ]
    rows += [[name, "array", " × ".join(map(str, each.values.shape)), each.text] for name, each in found.arrays.items()]
    rows += [[name, "picture", f"{each.width} × {each.height}", each.text] for name, each in found.pictures.items()]
    show_table(console, ["name", "kind", "size", "what it is"], rows)
    for warning in found.warnings:
        say(console, f"Note: {warning}", style="yellow")


def _model(job: Job) -> str:
    return f"{job.model.name}/{job.model.version}"


def _progress(job: Job) -> str:
    progress = job.progress
    rows = f", {progress.rows_done} of {progress.rows} rows" if progress.rows else ""
    pace = f", {progress.rows_per_second:.3g} rows/s" if progress.rows_per_second else ""
    left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
    return f"{progress.share:.0%}{rows}{pace}{left}"


def _time(time: datetime | None) -> str:
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _size(count: int) -> str:
    size: Any = count
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
