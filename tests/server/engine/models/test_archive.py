"""Nothing in a `.pt2` file is run: real malicious files, beside ordinary ones that load bit-equal."""

import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pellucid_server.engine.models.exported.archive import ModelFileError, load_program
from pellucid_server.engine.models.exported.size_expressions import ExpressionError, checked_expression
from pellucid_server.engine.models.exported.torch_versions import VERSION
from pellucid_server.engine.models.operators.allowed import allowed
from server.engine.models.malice import (
    CONSTANTS,
    LIVE,
    PROGRAM,
    SAMPLE_INPUTS,
    WEIGHTS,
    Entries,
    code_in_guards,
    edited,
    entries_of,
    first_parameter,
    foreign_operator,
    pickled_sample_inputs,
    victim,
    written,
)
from server.engine.models.networks import ZOO, zoo_program, zoo_rows
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

HARMLESS_ONCE_REBUILT = ("pickled-sample-inputs", "code-in-guards")

_IMPORTED = "from pathlib import Path\nPath({marker!r}).touch()\n"

_PLAIN_TORCH = """
import sys, torch
for path in sys.argv[1:]:
    try:
        torch.export.load(path).module()(torch.ones(4, 3))
    except Exception:
        pass
"""


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ordinary") / "model.pt2"
    torch.export.save(victim(), path)
    return path


@pytest.fixture(scope="module")
def malicious(ordinary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the live malicious files, and beside them what plain torch left in the folder `control`."""
    folder = tmp_path_factory.mktemp("malicious")
    control = folder / "control"
    control.mkdir()
    for name, change in LIVE.items():
        entries = entries_of(ordinary)
        change(entries, f"marker-{name}")
        written(folder / f"{name}.pt2", entries)
    (control / "module_marker_code_in_a_container.py").write_text(_IMPORTED.format(marker="marker-code-in-a-container"))
    files = [str(folder / f"{name}.pt2") for name in LIVE]
    subprocess.run([sys.executable, "-c", _PLAIN_TORCH, *files], cwd=control, capture_output=True, check=True)
    return folder


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory, from which modules can be imported too: where the payloads leave their markers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "module_marker_code_in_a_container.py"
    module.write_text(_IMPORTED.format(marker="marker-code-in-a-container"))
    return tmp_path


def markers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith("marker-")}


@pytest.mark.parametrize("name", LIVE)
def test_the_payload_is_live_in_plain_torch(malicious: Path, name: str) -> None:
    if name == "pickled-object" and VERSION != "2.13":
        pytest.skip(f"torch {VERSION} does not run it itself")
    assert (malicious / "control" / f"marker-{name}").exists()


@pytest.mark.parametrize("name", [name for name in LIVE if name not in HARMLESS_ONCE_REBUILT])
def test_a_file_with_code_is_refused_and_nothing_runs(malicious: Path, working_directory: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match="refused"):
        load_program(malicious / f"{name}.pt2")

    assert markers(working_directory) == set()


@pytest.mark.parametrize("name", HARMLESS_ONCE_REBUILT)
def test_code_that_no_server_needs_is_left_behind(
    malicious: Path, ordinary: Path, working_directory: Path, name: str
) -> None:
    features = torch.randn(4, 3)

    output = load_program(malicious / f"{name}.pt2").module()(features)

    assert torch.equal(output, load_program(ordinary).module()(features))
    assert markers(working_directory) == set()


def test_a_foreign_operator_is_refused(ordinary: Path, working_directory: Path) -> None:
    entries = entries_of(ordinary)
    foreign_operator(entries, "marker-operator")

    with pytest.raises(ModelFileError, match=r"operator 'torch\.os\.system'"):
        load_program(written(working_directory / "model.pt2", entries))

    assert markers(working_directory) == set()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.add.out",
        "torch.ops.aten.add.__class__",
        "torch.ops.aten.add",
        "torch.ops.aten.add.Tensor.name",
        "torch.ops.higher_order.cond",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "math.__loader__.exec_module",
        "torch.sym_int.__globals__",
        "#extension:operator",
    ],
)
def test_an_operator_that_is_not_on_the_list_is_not_allowed(target: str) -> None:
    assert not allowed(target)


@pytest.mark.parametrize("target", ["torch.ops.aten.relu_.default", "torch.ops.aten.add.Tensor", "_operator.mul"])
def test_an_operator_that_exports_contain_is_allowed(target: str) -> None:
    assert allowed(target)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "s0.__class__",
        "[s0][0]",
        "(lambda: 4)()",
        "eval('4')",
        "Symbol('s0', positive=print())",
        "Symbol('__import__')",
        "Mul(s0, *[4])",
        "f'{s0}'",
        "s0 if s0 else 4",
        "Integer('4')",
        "s0 ** 9",
        "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
        "Pow(s0, Integer(1000000))",
        "Pow(Pow(Pow(Pow(s0, 8), 8), 8), 8)",
        "factorial(s0)",
        "s0" * 4000,
        "(" * 3000 + "s0" + ")" * 3000,
        "s0; s1",
        "os",
        "",
    ],
)
def test_an_expression_with_more_than_sizes_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        checked_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "Mul(Integer(4), Symbol('s52', positive=True, integer=True))",
        "Pow(Symbol('s0', integer=True), Integer(2))",
        "FloorDiv(s0, 2) + 2 * u1 - Integer(-1)",
        "Max(1, s0)",
        "s0 >= 2",
    ],
)
def test_an_expression_of_sizes_is_kept(text: str) -> None:
    assert checked_expression(text) == text


POWER = "Pow({}, Integer(8))"
LARGE = 2**62


@pytest.mark.parametrize(
    "text",
    [
        POWER.format(POWER.format(POWER.format(LARGE))),
        POWER.format(POWER.format(LARGE)) + f" * {POWER.format(LARGE)}",
        f"Pow(Mul({', '.join([str(LARGE)] * 9)}), Integer(8))",
        POWER.format("Add(" + ", ".join([POWER.format(LARGE)] * 9) + ")"),
        " * ".join([str(LARGE)] * 70),
        "Pow(Float('1e999'), Integer(2))",
        POWER.format(POWER.format("Pow(s0, Integer(8))")),
    ],
)
def test_powers_of_powers_and_long_products_are_bounded_by_what_they_may_come_to(text: str) -> None:
    with pytest.raises(ExpressionError, match="may come to a number of"):
        checked_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        POWER.format(POWER.format("s0")),
        " + ".join([POWER.format("s0")] * 8),
        " * ".join([str(LARGE)] * 60),
        "TruncToInt(FloatTrueDiv(s0, Float('2.5', precision=53)))",
    ],
)
def test_numbers_that_stay_small_enough_are_kept_however_they_are_written(text: str) -> None:
    assert checked_expression(text) == text


def test_a_container_of_a_foreign_class_is_refused(ordinary: Path, tmp_path: Path) -> None:
    leaf = {"type": None, "context": None, "children_spec": []}
    spec = json.dumps([1, {"type": "collections.defaultdict", "context": "[]", "children_spec": [leaf]}])

    def edit(program: Any) -> None:
        program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = spec

    entries = entries_of(ordinary)
    edited(entries, PROGRAM, edit)

    with pytest.raises(ModelFileError, match=r"container 'collections\.defaultdict'; tuple, list, dict"):
        load_program(written(tmp_path / "model.pt2", entries))


def _renamed(old: str, new: str) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        entries[new] = entries.pop(old)

    return change


def _with_tensor(**meta: Any) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        edited(entries, WEIGHTS, lambda lists: first_parameter(lists)["tensor_meta"].update(meta))

    return change


def _with_program(edit: Callable[[Any], None]) -> Callable[[Entries], None]:
    return lambda entries: edited(entries, PROGRAM, edit)


def _ints(*values: int) -> list[dict[str, int]]:
    return [{"as_int": value} for value in values]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries.pop(PROGRAM), "'models/model.json' is missing"),
        (lambda entries: entries.pop(WEIGHTS), "model_weights_config.json' is missing"),
        (lambda entries: entries.pop("data/weights/weight_0"), "weight_0' is missing"),
        (lambda entries: entries.update({PROGRAM: b"{"}), "is not JSON"),
        (lambda entries: entries.update({PROGRAM: b"[]"}), "not an object"),
        (lambda entries: entries.update({PROGRAM: b"[" * 10**6}), "is not JSON"),
        (lambda entries: entries.update({"archive_format": b"pt3"}), "is not 'pt2'"),
        (lambda entries: entries.update({"byteorder": b"big"}), "is not 'little'"),
        (lambda entries: entries.update({"data/aotinductor/model/model.so": b""}), "no compiled code"),
        (lambda entries: entries.update({"models/other.json": entries[PROGRAM]}), "none that a server reads"),
        (_renamed("data/weights/weight_0", "data/weights/../../weight_0"), "none that a server reads"),
        (_renamed(SAMPLE_INPUTS, "../../../etc/model.pt"), "none that a server reads"),
        (_renamed(SAMPLE_INPUTS, "/etc/passwd"), "none that a server reads"),
        (_with_tensor(sizes=_ints(3, 4), strides=_ints(4, 1)), "does not lie in the 9 numbers"),
        (_with_tensor(storage_offset={"as_int": 1}), "does not lie in the 9 numbers"),
        (_with_tensor(storage_offset={"as_int": -1}), "that are no counts"),
        (_with_tensor(strides=_ints(3, -1)), "that are no counts"),
        (_with_tensor(sizes=_ints(2**40, 3), strides=_ints(0, 1)), "does not lie in"),
        (_with_tensor(dtype=8), "does not lie in the 4 numbers"),
        (_with_tensor(dtype=29), "FLOAT8E4M3FN"),
        (_with_tensor(dtype=99), "not a known ScalarType"),
        (_with_tensor(layout=1), "SparseCoo"),
        (_with_tensor(device={"type": "meta", "index": None}), "not a device that a server has"),
        (_with_tensor(sizes=[{"as_expr": {"expr_str": "s0"}}]), "that are no counts"),
        (_with_program(lambda program: program["schema_version"].update(major=7)), "has format 7"),
        (_with_program(lambda program: program["schema_version"].update(major=0, minor=0)), "has format 0"),
        (_with_program(lambda program: program.update(verifiers=["EDGE"])), "ATEN and TRAINING"),
        (_with_program(lambda program: program.update(graph_module=[])), "graph_module is .* not an object"),
        (_with_program(lambda program: program["range_constraints"].update({"u9999999999": {}})), "no size symbol"),
        (_with_program(lambda program: program["graph_module"]["graph"]["nodes"].clear()), "torch cannot build"),
    ],
)
def test_a_damaged_or_lying_file_is_refused(
    ordinary: Path, tmp_path: Path, change: Callable[[Entries], None], message: str
) -> None:
    entries = entries_of(ordinary)
    change(entries)

    with pytest.raises(ModelFileError, match=message):
        load_program(written(tmp_path / "model.pt2", entries))


@pytest.mark.parametrize("minor", [17, 20])
def test_a_file_of_another_minor_version_of_the_format_is_read(ordinary: Path, tmp_path: Path, minor: int) -> None:
    entries = entries_of(ordinary)
    _with_program(lambda program: program["schema_version"].update(minor=minor))(entries)

    program = load_program(written(tmp_path / "model.pt2", entries))

    expected = load_program(ordinary)
    assert [str(node.target) for node in program.graph.nodes] == [str(node.target) for node in expected.graph.nodes]


@pytest.mark.parametrize("kind", ["as_graph", "as_custom_obj", "as_operator", "as_string_to_argument", "as_unheard_of"])
def test_an_argument_that_carries_more_than_a_value_is_refused(ordinary: Path, tmp_path: Path, kind: str) -> None:
    def edit(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {kind: {}}

    entries = entries_of(ordinary)
    edited(entries, PROGRAM, edit)

    with pytest.raises(ModelFileError, match=f"of the kind '{kind}'"):
        load_program(written(tmp_path / "model.pt2", entries))


def test_an_entry_that_is_there_twice_is_refused(ordinary: Path, tmp_path: Path) -> None:
    entries = entries_of(ordinary)
    path = written(tmp_path / "model.pt2", entries)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr(f"model/{PROGRAM}", entries[PROGRAM])

    with pytest.raises(ModelFileError, match=r"'models/model\.json' is there twice"):
        load_program(path)


def test_a_compressed_entry_is_refused_before_it_is_unpacked(ordinary: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    entries = entries_of(ordinary) | {"data/weights/weight_0": bytes(2**26)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(f"model/{name}", content)

    with pytest.raises(ModelFileError, match="compressed"):
        load_program(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("data/weights/weight_0", "claims 2147483648 bytes, more than the file has"),
        (PROGRAM, "up to 268435456 are read"),
    ],
)
def test_an_entry_that_claims_to_be_huge_is_refused(ordinary: Path, tmp_path: Path, entry: str, message: str) -> None:
    path = written(tmp_path / "model.pt2", entries_of(ordinary))
    content = bytearray(path.read_bytes())
    name = content.rindex(f"model/{entry}".encode())  # in the central directory, 46 bytes into its record
    content[name - 26 : name - 18] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(content)

    with pytest.raises(ModelFileError, match=message):
        load_program(path)


def test_a_truncated_file_is_refused(ordinary: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(ordinary.read_bytes()[:-100])

    with pytest.raises(ModelFileError, match=r"no \.pt2 file, or is damaged"):
        load_program(path)


def test_a_file_with_a_flipped_bit_is_refused(ordinary: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    content = bytearray(ordinary.read_bytes())
    content[content.index(b'{"graph_module"')] ^= 1
    path.write_bytes(content)

    with pytest.raises(ModelFileError, match="is damaged"):
        load_program(path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)

    with pytest.raises(ModelFileError, match=r"model\.pt2"):
        load_program(path)


def test_an_absent_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"absent\.pt2 cannot be read: No such file"):
        load_program(tmp_path / "absent.pt2")


@cache
def ordinary_file_loaded(name: str) -> ExportedProgram:
    """Save a network's program, with a file of the author's beside it, and load it again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        torch.export.save(zoo_program(name), path, extra_files={"notes.txt": "mine"})
        return load_program(path)


@pytest.mark.parametrize("name", ZOO)
def test_an_ordinary_file_loads_and_answers_bit_for_bit(name: str) -> None:
    program, rows = zoo_program(name), zoo_rows(name, 3, 5)

    loaded = ordinary_file_loaded(name)

    expected, expected_tree = pytree.tree_flatten(program.module()(**rows))
    outputs, tree = pytree.tree_flatten(loaded.module()(**rows))
    assert tree == expected_tree
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ZOO)
def test_layers_keep_their_names(name: str) -> None:
    program = zoo_program(name)

    loaded = ordinary_file_loaded(name)

    assert [stack(node) for node in loaded.graph.nodes] == [stack(node) for node in program.graph.nodes]
    assert any(stack(node) for node in loaded.graph.nodes)


def stack(node: torch.fx.Node) -> list[str]:
    """Return the paths and calls of the modules that a node stands in, less what torch names sizes by."""
    entries = node.meta.get("nn_module_stack", {}).items()
    return [f"{key}:{path}" for key, (path, _) in entries if not path.startswith("_empty")]


def test_an_ordinary_file_says_nothing_of_its_making_but_the_authors_lines(ordinary: Path) -> None:
    program = load_program(ordinary)

    kept = {name for node in program.graph.nodes for name in node.meta}
    assert kept <= {"val", "nn_module_stack", "stack_trace"}
    assert not any("/" in node.meta.get("stack_trace", "") for node in program.graph.nodes)
    assert program.example_inputs is None


def test_shared_parameters_stay_shared(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3))
    module[2].weight = module[0].weight
    program = torch.export.export(module, (torch.randn(2, 3),), strict=False)
    torch.export.save(program, tmp_path / "model.pt2")

    state = load_program(tmp_path / "model.pt2").state_dict

    assert state["0.weight"].untyped_storage().data_ptr() == state["2.weight"].untyped_storage().data_ptr()


def test_a_file_that_is_both_kinds_of_harmless_still_loads(ordinary: Path, working_directory: Path) -> None:
    entries = entries_of(ordinary)
    pickled_sample_inputs(entries, "marker-inputs")
    code_in_guards(entries, "marker-guards")
    edited(entries, CONSTANTS, lambda lists: lists.update(unheard_of=1))

    program = load_program(written(working_directory / "model.pt2", entries))

    assert program.module()(torch.ones(4, 3)).shape == (8, 3)
    assert markers(working_directory) == set()
