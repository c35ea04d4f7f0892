"""Exports a network so that a server can serve it: `model.pt2`, `model.onnx` and a `model.toml` to complete.

An export goes wrong in silence in several ways: in training mode, where dropout and batch norm stay
as they are for good; from one example row, which fixes the batch at one; with axes that are fixed to
the example's lengths. `export`, and the command `pellucid-export`, see to these, and then load what
they wrote as a server does and compare it with the network.
"""

import argparse
import importlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pellucid_server.engine.models.exported.archive import ModelFileError, load_program
from pellucid_server.engine.models.files.manifest import read_manifest
from pellucid_server.engine.models.files.strict_toml import ManifestError
from pellucid_server.engine.models.graph.graph import Graph, UnfitModelError
from pellucid_server.engine.models.graph.independence import rows_independent
from pellucid_server.engine.models.onnx.onnx_model import SessionError
from pellucid_server.export_example import dynamic_shapes, named_arguments
from pellucid_server.export_reasons import reason
from pellucid_server.export_trial import ExportError, draw_trials, graph_difference, onnx_difference
from pellucid_server.starter_manifest import starter_manifest

__all__ = ["ExportError", "Exported", "export", "main"]

_GRAPH_FILE, _ONNX_FILE, _MANIFEST_FILE = "model.pt2", "model.onnx", "model.toml"

_DEPENDENT = "Rows of a batch depend on one another, so that every request will be served on its own."

_TALKATIVE = ("torch.onnx._internal.exporter._registration", "torch.fx.experimental.symbolic_shapes")
"""Loggers that warn users of what is torch's own affair."""

_LARGEST_ONNX_BYTES = 1_500_000_000
"""Weights beyond this go into a file beside model.onnx: a protobuf message ends at 2 GB."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how well it agrees with the network.

    Attributes
    ----------
    folder
        The version folder.
    inputs, outputs
        Names, as in `model.toml`.
    graph_difference
        Largest difference of `model.pt2` from the network on random rows, as a share of an output's largest value.
    onnx_difference
        The same of `model.onnx`; None if there is none.
    warnings
        What a user should know, a sentence each.
    """

    folder: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    graph_difference: float
    onnx_difference: float | None
    warnings: tuple[str, ...]


def export(
    module: nn.Module,
    example: Mapping[str, Tensor] | tuple[Tensor, ...],
    folder: Path,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    description: str = "",
    onnx: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Exported:
    """Write a network as a version of a model, and compare what was written with the network.

    Parameters
    ----------
    module
        On the CPU, its forward from tensors with rows on axis 0 to a tensor, or a tuple, list or dict of
        tensors, with rows on axis 0. It is exported in eval mode; its own mode is left as it was.
    example
        Tensors for the arguments of its forward, by name or in their order, (rows, *features), with the
        same number of rows. One row is repeated. Values matter only where forward asks for them, as for tokens.
    folder
        Where the version goes: `REPOSITORY/NAME/VERSION`. `model.pt2` and `model.onnx` there are replaced,
        `REPOSITORY/NAME/model.toml` is written if it is not there.
    dynamic
        Further axes without a fixed length, by input, axis and a name of one's own; axes of one name have one
        length. The example's length there must be at least 2.
    description
        A sentence for `model.toml`.
    onnx
        Whether to write `model.onnx`, which serves forward passes faster. If that fails, it is left out
        with a warning, and the graph serves them.
    progress
        Called with a line for each step.

    Raises
    ------
    ExportError
        The example does not fit the network, the network cannot be exported or served, or the graph
        disagrees with it. Nothing is written then.
    """
    if not folder.name.isdecimal() or int(folder.name) < 1:
        raise ExportError(f"The folder is {str(folder)!r}; its last part must be the version, such as models/NAME/1.")
    arguments = named_arguments(module, example)
    shapes = dynamic_shapes(arguments, dynamic or {})
    place = next(parent for parent in (folder, *folder.resolve().parents) if parent.is_dir())
    with _evaluating(module), _quiet(), tempfile.TemporaryDirectory(prefix=".export-", dir=place) as made_folder:
        made = _make(module, arguments, shapes, Path(made_folder), onnx=onnx, report=progress or _ignore)
        _move(Path(made_folder), folder, keep_onnx=made.onnx_difference is not None)
    return Exported(
        folder=folder,
        inputs=tuple(value.name for value in made.graph.inputs),
        outputs=tuple(value.name for value in made.graph.outputs),
        graph_difference=made.graph_difference,
        onnx_difference=made.onnx_difference,
        warnings=(*made.warnings, *_manifest_warnings(folder.parent / _MANIFEST_FILE, made.graph, description)),
    )


def _ignore(line: str) -> None:
    """Report to nobody."""


@dataclass(frozen=True, slots=True)
class _Made:
    """Files in a folder of their own, compared with the network."""

    graph: Graph
    graph_difference: float
    onnx_difference: float | None
    warnings: tuple[str, ...]


def _make(
    module: nn.Module,
    arguments: dict[str, Tensor],
    shapes: dict[str, dict[int, Dim]],
    folder: Path,
    *,
    onnx: bool,
    report: Callable[[str], None],
) -> _Made:
    report("Exporting the graph.")
    program = _program(module, arguments, shapes)
    torch.export.save(program, folder / _GRAPH_FILE)
    report("Loading it as a server does, and comparing it with the network.")
    graph = _graph(folder / _GRAPH_FILE)
    trials = draw_trials(module, arguments, shapes, [value.name for value in graph.outputs])
    difference = graph_difference(graph, trials)
    notes = _notes(graph)
    if not onnx:
        return _Made(graph, difference, None, notes)
    report("Exporting ONNX, and comparing it with the network.")
    try:
        _export_onnx(program, graph, folder / _ONNX_FILE)
        return _Made(graph, difference, onnx_difference(folder / _ONNX_FILE, trials), notes)
    except (ExportError, SessionError) as error:
        missing = f"There is no {_ONNX_FILE}, so that the graph will serve forward passes: {error}."
        return _Made(graph, difference, None, (*notes, missing))


def _notes(graph: Graph) -> tuple[str, ...]:
    try:
        return () if rows_independent(graph) else (_DEPENDENT,)
    except (MemoryError, RuntimeError) as error:
        raise ExportError(
            "There is too little memory to run the network on three rows; free some, or export a smaller network."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's warnings about itself from the user: of absent packages, and of its own deprecated calls."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "The tensor attributes .* were assigned during export")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _program(module: nn.Module, arguments: dict[str, Tensor], shapes: dict[str, dict[int, Dim]]) -> ExportedProgram:
    _require_tensors(module, arguments)
    try:
        # What torch could not export it prints in full.
        with torch.enable_grad(), redirect_stderr(StringIO()):
            return torch.export.export(module, (), arguments, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise ExportError(f"torch.export refuses the network: {reason(error)}.") from error


def _require_tensors(module: nn.Module, arguments: dict[str, Tensor]) -> None:
    """Refuse an object that libraries return around their tensors: an export would hold the object's class."""
    try:
        with torch.no_grad():
            result = module(**{name: tensor.clone() for name, tensor in arguments.items()})
    except Exception:  # noqa: BLE001 - whatever forward raises, the export raises it again with more to say
        return
    if isinstance(result, (Tensor, tuple, list)) or type(result) in (dict, OrderedDict):
        return
    held = vars(result) if hasattr(result, "__dict__") else {}
    fields = [name for name, value in held.items() if isinstance(value, Tensor)]
    best = "logits" if "logits" in fields or not fields else fields[0]
    call = ", ".join(arguments)
    raise ExportError(
        f"forward returns {type(result).__name__}; a server needs a tensor, or a tuple, list or dict of tensors. Wrap "
        f"the network in a torch.nn.Module whose forward({call}) says: return model({call}).{best}"
    )


def _export_onnx(program: ExportedProgram, graph: Graph, path: Path) -> None:
    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    try:
        torch.onnx.export(
            program,
            f=path,
            dynamo=True,
            verbose=False,
            input_names=[value.name for value in graph.inputs],
            output_names=[value.name for value in graph.outputs],
            external_data=weights > _LARGEST_ONNX_BYTES,
        )
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ExportError(f"torch.onnx cannot export the graph ({reason(cause)})") from error


def _graph(path: Path) -> Graph:
    try:
        return Graph.from_program(load_program(path))
    except (ModelFileError, UnfitModelError) as error:
        raise ExportError(f"A server would refuse the network: {error}".replace(f"{path}: ", "")) from error


def _move(made: Path, folder: Path, *, keep_onnx: bool) -> None:
    """Put the files in place of older ones; an ONNX file that was not made anew would be another model's."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{_ONNX_FILE}*"):
        stale.unlink()
    for path in sorted(made.iterdir()):
        if keep_onnx or not path.name.startswith(_ONNX_FILE):
            os.replace(path, folder / path.name)


def _manifest_warnings(path: Path, graph: Graph, description: str) -> list[str]:
    """Write a starter `model.toml`, or compare the one that is there."""
    if not path.exists():
        path.write_text(starter_manifest(description, graph.inputs, graph.outputs), encoding="utf-8")
        return []
    try:
        manifest = read_manifest(path)
    except ManifestError as error:
        return [str(error)]
    known = {value.name for value in (*graph.inputs, *graph.outputs)}
    listed = [entry.name for entry in manifest.inputs] + [entry.name for entry in manifest.outputs]
    return [f"{path} names {name!r}, which the network does not have." for name in listed if name not in known]


_EPILOG = """\
FACTORY is a function without arguments, in a module that can be imported from here, that returns the network with its
weights. An example of float numbers is random, of whole numbers zeros and ones; its first length is the number of rows.
"""

_DATA_TYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `pellucid-export`; return its exit code, 2 for what the caller can put right."""
    parser = argparse.ArgumentParser(
        prog="pellucid-export", description="Export a network for a Pellucid server.", epilog=_EPILOG
    )
    parser.add_argument("factory", metavar="MODULE:FACTORY", help="makes the network, such as package.module:make")
    parser.add_argument(
        "--example",
        action="append",
        required=True,
        type=_example,
        metavar="INPUT=ROWS,LENGTH,...[:TYPE]",
        help=f"an argument of forward, such as image=2,3,224,224 or tokens=2,16:int64; TYPE is one of {_DATA_TYPES}",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="the model's folder: REPOSITORY/NAME")
    parser.add_argument("--version", type=int, default=1, help="the version to write (default: %(default)s)")
    parser.add_argument(
        "--dynamic",
        action="append",
        default=[],
        type=_dynamic_axis,
        metavar="INPUT:AXIS=NAME",
        help="a further axis without a fixed length, such as tokens:1=length; equal names are equal lengths",
    )
    parser.add_argument("--description", default="", help="a sentence for model.toml")
    parser.add_argument("--no-onnx", action="store_true", help="write no model.onnx")
    options = parser.parse_args(arguments)
    dynamic: dict[str, dict[int, str]] = {}
    for name, axis, length in options.dynamic:
        dynamic.setdefault(name, {})[axis] = length
    try:
        exported = export(
            _network(options.factory),
            dict(options.example),
            options.out / str(options.version),
            dynamic=dynamic,
            description=options.description,
            onnx=not options.no_onnx,
            progress=_say,
        )
    except ExportError as error:
        sys.stderr.write(f"pellucid-export: {error}\n")
        return 2
    _summarize(exported)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _summarize(exported: Exported) -> None:
    _say(f"{exported.folder} takes {', '.join(exported.inputs)} and gives {', '.join(exported.outputs)}.")
    _say(f"{_GRAPH_FILE} differs from the network by {exported.graph_difference:.1g} of the largest value.")
    if exported.onnx_difference is not None:
        _say(f"{_ONNX_FILE} differs from the network by {exported.onnx_difference:.1g} of the largest value.")
    for warning in exported.warnings:
        _say(f"Note: {warning}")
    _say(f"Next: say in {exported.folder.parent / _MANIFEST_FILE} what the numbers mean.")


def _example(text: str) -> tuple[str, Tensor]:
    match = re.fullmatch(r"(\w+)=(\d+(?:,\d+)*)(?::(\w+))?", text)
    if not match or (match[3] or "float32") not in _DATA_TYPES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not INPUT=ROWS,LENGTH,...[:TYPE], such as image=2,3,224,224 or tokens=2,16:int64"
        )
    shape = [int(length) for length in match[2].split(",")]
    data_type: torch.dtype = getattr(torch, match[3] or "float32")
    generator = torch.Generator().manual_seed(0)
    if data_type.is_floating_point:
        return match[1], torch.randn(shape, generator=generator).to(data_type)
    return match[1], torch.randint(0, 2, shape, generator=generator).to(data_type)


def _dynamic_axis(text: str) -> tuple[str, int, str]:
    match = re.fullmatch(r"(\w+):(\d+)=(\w+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not INPUT:AXIS=NAME, such as tokens:1=length")
    return match[1], int(match[2]), match[3]


def _network(path: str) -> nn.Module:
    """Import and call the factory; what it raises is the user's own and passes through."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ExportError(f"{path!r} is not MODULE:FACTORY, such as package.module:make.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ExportError(f"There is no module {error.name!r} to import from {Path.cwd()}.") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ExportError(f"The module {module_name!r} has no function {name!r}.")
    network = factory()
    if not isinstance(network, nn.Module):
        raise ExportError(f"{path} returned {type(network).__name__}; it must return a torch.nn.Module.")
    return network
