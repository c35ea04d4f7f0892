"""Rebuilds the text of a model file (`model.json` and the payload lists) from parts that are known to be harmless.

torch reads this text by dataclasses of which only the names of fields are held to their types, and
then resolves, imports, evaluates or writes into generated source code many of its strings. Here
every value is held to its declared type, every string to a rule of its own (`_TEXTS`), and what a
server has no use for is not carried over: guards (torch compiles them), names of functions, custom
objects, subgraphs, submodules' signatures. Of a stack trace only the author's line is, for messages. A
kind of text without a rule is refused.
"""

import dataclasses
import enum
import json
import keyword
import re
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch._export.serde import schema, union

from pellucid_server.engine.models.exported.size_expressions import SYMBOL, ExpressionError, checked_expression
from pellucid_server.engine.models.exported.torch_versions import VERSION
from pellucid_server.engine.models.operators.allowed import allowed, filled
from pellucid_server.engine.models.operators.remedies import place, refusal


class ModelFileError(Exception):
    """A model file is damaged, unknown, or asks for more than a server gives it; the message has the remedy."""


REMEDY = f"export it again with torch {VERSION} (pellucid-export, or torch.export.save)"

_NOTHING = object()
"""A field's policy: leave the schema's default in its place."""

_GRAPH_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,511}")
_STATE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,1023}")
_PAYLOAD_NAME = re.compile(r"(weight|tensor)_\d{1,9}")
_STACK = re.compile(r"[A-Za-z0-9_.@<>,;:\[\]()\- ]{0,16384}")
_KEY = re.compile(r"[^\x00-\x1f\x7f'\"\\{}]{1,256}")
_UNBACKED = re.compile(r"z?u")
"""How the names of symbols begin that stand for sizes which depend on data."""

_DEEPEST_TREE = 32
_DEVICES = ("cpu", "cuda")
_DIALECTS = ("ATEN", "TRAINING")
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def rebuilt_program(text: bytes) -> schema.ExportedProgram:
    """Rebuild `model.json`, as the objects that torch reads it into.

    Values between inputs and outputs are described by their type alone, unless sizes depend on data.

    Raises
    ------
    ModelFileError
        It is not JSON, was written by another version of torch's format, or names something that is refused.
    """
    data = _parsed(text, "model.json")
    major = _member(_member(data, "schema_version"), "major")
    if major != schema.SCHEMA_VERSION[0]:
        raise ModelFileError(
            f"model.json has format {major!r}; this server reads {schema.SCHEMA_VERSION[0]}: {REMEDY}."
        )
    program: schema.ExportedProgram = _rebuilt(schema.ExportedProgram, data, "model.json")
    if not any(_UNBACKED.match(symbol) for symbol in program.range_constraints):
        _forget_values(program.graph_module.graph)
    return program


def _forget_values(graph: schema.Graph) -> None:
    """Put numbers in place of the described values between inputs and outputs: `functional` derives them itself.

    torch would make each of them with its sizes, which takes as long as all the rest. Where sizes depend on
    data, the descriptions are where torch learns their symbols from.
    """
    inputs = {argument.value.name for argument in graph.inputs if argument.type == "as_tensor"}
    numbers: dict[int, schema.TensorMeta] = {}
    for name, value in graph.tensor_values.items():
        if name not in inputs:
            number = dataclasses.replace(value, sizes=[], strides=[], requires_grad=False)
            graph.tensor_values[name] = numbers.setdefault(value.dtype, number)


def rebuilt_payloads(text: bytes, name: str) -> Mapping[str, schema.PayloadMeta]:
    """Rebuild a payload list; return its entries by the name of the tensor.

    Raises
    ------
    ModelFileError
        An entry is pickled, is no plain tensor, or the list is damaged.
    """
    payloads: Mapping[str, schema.PayloadMeta] = _rebuilt(schema.PayloadConfig, _parsed(text, name), name).config
    return payloads


def _parsed(text: bytes, where: str) -> object:
    try:
        # Without a call of Python, the parser would keep the interpreter from other threads from start to end.
        return json.loads(text.decode("utf-8"), object_hook=_itself)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{where} is not JSON: the file is damaged; {REMEDY}.") from error


def _itself(data: dict[str, object]) -> dict[str, object]:
    return data


def _member(data: object, name: str) -> object:
    return _object(data, "model.json").get(name)


def _rebuilt(kind: Any, data: object, where: str) -> Any:
    """Hold `data` to its declared type, and its texts to their rules."""
    form, item = _form(kind)
    if form == "optional":
        return None if data is None else _rebuilt(item, data, where)
    if form == "union":
        return _rebuilt_union(kind, data, where)
    if form == "class":
        return _rebuilt_class(kind, data, where)
    return _rebuilt_value(kind, data, where, None)


@cache
def _form(kind: Any) -> tuple[str, Any]:
    """Return what a declared type is, and the type of what is in it."""
    origin, items = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return "optional", items[0]
    if origin in (list, dict):
        return origin.__name__, items[-1]
    if isinstance(kind, type) and issubclass(kind, union._Union):
        return "union", None
    return ("class", None) if dataclasses.is_dataclass(kind) else ("value", None)


@cache
def _fields(kind: Any) -> tuple[tuple[str, Any, Callable[[Any, str], Any] | None, bool], ...]:
    """Return the name, the declared type and the policy of each field of a class, and whether it must be given."""
    missing = dataclasses.MISSING
    return tuple(
        (
            field.name,
            _hints(kind)[field.name],
            _FIELDS.get((kind.__name__, field.name)),
            field.default is missing and field.default_factory is missing,
        )
        for field in dataclasses.fields(kind)
    )


def _rebuilt_class(kind: Any, data: object, where: str) -> Any:
    given = _object(data, where)
    if kind is schema.Node:
        given = _known_operator(given)
    rebuilt: dict[str, Any] = {}
    for name, hint, policy, required in _fields(kind):
        if policy is not None:
            value = policy(given.get(name), f"{where}.{name}")
            rebuilt |= {} if value is _NOTHING else {name: value}
        elif name in given:
            rebuilt[name] = _rebuilt_field(kind, name, hint, given[name], f"{where}.{name}")
        elif required:
            raise ModelFileError(f"{where}.{name} is missing: the file is damaged; {REMEDY}.")
    return kind(**rebuilt)


def _known_operator(node: dict[str, Any]) -> dict[str, Any]:
    """Refuse an operator that is not on the list; replace one that gives memory nobody has written."""
    target = node.get("target")
    inputs = node.get("inputs")
    if isinstance(target, str) and isinstance(inputs, list):
        target, inputs = filled(target, inputs)
    if isinstance(target, str) and not allowed(target):
        raise ModelFileError(refusal(target, node.get("metadata")))
    return {**node, "target": target, "inputs": inputs}


def _rebuilt_union(kind: Any, data: object, where: str) -> Any:
    given = _object(data, where)
    _require(len(given) == 1, where, data, "an object with one member")
    ((name, value),) = given.items()
    if (kind.__name__, name) in _REFUSED or name not in _hints(kind):
        raise ModelFileError(
            f"{where} is of the kind {name!r}, which a server does not load. Leave it out of the export."
        )
    return kind.create(**{name: _rebuilt_field(kind, name, _hints(kind)[name], value, f"{where}.{name}")})


def _rebuilt_field(kind: Any, name: str, hint: Any, data: object, where: str) -> Any:
    form, item = _form(hint)
    if form == "optional":
        return None if data is None else _rebuilt_field(kind, name, item, data, where)
    if form == "list":
        items = enumerate(_list(data, where))
        return [_rebuilt_field(kind, name, item, value, f"{where}[{index}]") for index, value in items]
    if form == "dict":
        rule, pairs = _TEXTS.get((kind.__name__, name)), _object(data, where).items()
        return {_text(rule, key, where): _rebuilt(item, value, f"{where}.{key[:80]}") for key, value in pairs}
    if form != "value":
        return _rebuilt(hint, data, where)
    return _rebuilt_value(hint, data, where, _TEXTS.get((kind.__name__, name)))


def _rebuilt_value(kind: Any, data: object, where: str, rule: Callable[[str], str] | None) -> Any:
    members = _members(kind)
    if members:
        _require(type(data) is int and data in members, where, data, "a known " + kind.__name__)
        dense = kind is not schema.Layout or data == schema.Layout.Strided
        _require(dense, where, kind(typing.cast(int, data)).name, "Strided, the layout of dense tensors")
        return data
    if kind is str:
        return _text(rule, data, where)
    if kind is float and isinstance(data, str):
        _require(data in ("Infinity", "-Infinity", "NaN"), where, data, "a number")
        return float(data)
    if kind is float:
        _require(type(data) in (int, float), where, data, "a number")
        return float(typing.cast(float, data))
    if kind is int:
        _require(type(data) is int and abs(data) <= 2**63, where, data, "an integer of 64 bits")
        return data
    _require(kind is bool and type(data) is bool, where, data, "true or false")
    return data


@cache
def _members(kind: Any) -> frozenset[int]:
    """Return the numbers that an enumeration has; other types have none."""
    return frozenset(kind) if isinstance(kind, type) and issubclass(kind, enum.IntEnum) else frozenset()


def _text(rule: Callable[[str], str] | None, data: object, where: str) -> str:
    if rule is None or not isinstance(data, str):
        raise ModelFileError(f"{where} is {str(data)[:80]!r}, not a text that a server reads: refused; {REMEDY}.")
    try:
        return rule(data)
    except ValueError as error:
        raise ModelFileError(f"{where} {error}: refused. If the file is your own, {REMEDY}.") from error


def _object(data: object, where: str) -> dict[str, Any]:
    _require(isinstance(data, dict), where, data, "an object")
    return typing.cast(dict[str, Any], data)


def _list(data: object, where: str) -> list[Any]:
    _require(isinstance(data, list), where, data, "a list")
    return typing.cast(list[Any], data)


def _require(met: bool, where: str, data: object, wanted: str) -> None:
    if not met:
        raise ModelFileError(
            f"{where} is {str(data)[:80]!r}, not {wanted}: refused. If the file is your own, {REMEDY}."
        )


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, globalns=vars(schema))


# Rules for texts: each gives back what is carried over, or raises ValueError with the end of a sentence.


def _pattern(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def rule(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"is {text[:80]!r}, which is no {what}")
        return text

    return rule


def _graph_name(text: str) -> str:
    """Check a name that torch writes into the source code that it generates for the graph."""
    if not _GRAPH_NAME.fullmatch(text) or keyword.iskeyword(text):
        raise ValueError(f"is {text[:80]!r}, which is no name")
    return text


def _argument_name(text: str) -> str:
    return text if text in ("", "from") else _graph_name(text)


def _operator(text: str) -> str:
    if not allowed(text):
        raise ValueError(f"is the operator {text[:120]!r}, which is not on the list of those that a server runs")
    return text


def _expression(text: str) -> str:
    try:
        return checked_expression(text)
    except ExpressionError as error:
        raise ValueError(f"is a size expression that {error}") from error


def _literal(text: str) -> str:
    """Check a text that an operator takes as an argument, such as a padding mode."""
    if len(text) > 256 or not text.isprintable():
        raise ValueError(f"is {text[:80]!r}, which is no argument of an operator")
    return text


def _tree(text: str, *, names: bool) -> str:
    """Check a description of nested containers; with `names`, keys that torch writes into source code."""
    try:
        protocol, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("is no description of containers") from error
    if protocol != 1:
        raise ValueError(f"is a description of containers of the unknown version {str(protocol)[:20]!r}")
    rebuilt = _tree_node(tree, 0)
    if names:
        _check_arguments(rebuilt)
    return json.dumps([1, rebuilt])


def _tree_node(node: Any, depth: int) -> dict[str, Any]:
    if not isinstance(node, dict) or set(node) != {"type", "context", "children_spec"} or depth > _DEEPEST_TREE:
        raise ValueError("is no description of containers")
    kind, context, children = node["type"], node["context"], node["children_spec"]
    if kind is None and context is None and children == []:
        return {"type": None, "context": None, "children_spec": []}
    if kind not in _CONTAINERS or not isinstance(children, list):
        raise ValueError(f"names the container {str(kind)[:80]!r}; tuple, list, dict and OrderedDict are allowed")
    keys = _tree_keys(context) if kind in _CONTAINERS[2:] else None
    if (keys is None and context != "null") or (keys is not None and len(keys) != len(children)):
        raise ValueError(f"has a {kind} with the unknown context {str(context)[:80]!r}")
    rebuilt = [_tree_node(child, depth + 1) for child in children]
    return {"type": kind, "context": json.dumps(keys), "children_spec": rebuilt}


def _tree_keys(context: object) -> list[str | int]:
    keys = json.loads(context) if isinstance(context, str) else None
    known = isinstance(keys, list) and all(
        type(key) is int or (isinstance(key, str) and _KEY.fullmatch(key)) for key in keys
    )
    if not known:
        raise ValueError(f"has a dict with the keys {str(context)[:80]!r}; plain texts and integers are allowed")
    return typing.cast(list[str | int], keys)


def _check_arguments(tree: dict[str, Any]) -> None:
    kinds = [child["type"] for child in tree["children_spec"]]
    if tree["type"] != "builtins.tuple" or kinds != ["builtins.tuple", "builtins.dict"]:
        raise ValueError("does not describe positional and named arguments")
    for key in json.loads(tree["children_spec"][1]["context"]):
        _graph_name(str(key))


def _module_stack(text: str) -> str:
    """Check the modules that an operator stands in: `key,path,class` for each, separated by semicolons."""
    if not _STACK.fullmatch(text) or any(_top_level_commas(entry) != 2 for entry in text.split(";")):
        raise ValueError(f"is {text[:80]!r}, which is no stack of modules")
    return text


def _top_level_commas(text: str) -> int:
    depth = commas = 0
    for character in text:
        depth += (character in "[(") - (character in ")]")
        commas += character == "," and depth == 0
    return commas


_state_name = _pattern(_STATE_NAME, "name of a parameter or buffer")

_TEXTS: Mapping[tuple[str, str], Callable[[str], str]] = {
    ("SymExpr", "expr_str"): _expression,
    ("TensorArgument", "name"): _graph_name,
    ("SymIntArgument", "as_name"): _graph_name,
    ("SymFloatArgument", "as_name"): _graph_name,
    ("SymBoolArgument", "as_name"): _graph_name,
    ("Argument", "as_string"): _literal,
    ("Argument", "as_strings"): _literal,
    ("NamedArgument", "name"): _argument_name,
    ("Node", "target"): _operator,
    ("Node", "name"): _graph_name,
    ("Graph", "tensor_values"): _graph_name,
    ("Graph", "sym_int_values"): _graph_name,
    ("Graph", "sym_bool_values"): _graph_name,
    ("Graph", "sym_float_values"): _graph_name,
    ("ConstantValue", "as_string"): _literal,
    ("InputToConstantInputSpec", "name"): _argument_name,
    ("InputToParameterSpec", "parameter_name"): _state_name,
    ("InputToBufferSpec", "buffer_name"): _state_name,
    ("InputToTensorConstantSpec", "tensor_constant_name"): _state_name,
    ("BufferMutationSpec", "buffer_name"): _state_name,
    ("UserInputMutationSpec", "user_input_name"): _graph_name,
    ("ModuleCallSignature", "in_spec"): lambda text: _tree(text, names=True),
    ("ModuleCallSignature", "out_spec"): lambda text: _tree(text, names=False),
    ("ModuleCallSignature", "forward_arg_names"): _graph_name,
    ("ExportedProgram", "range_constraints"): _pattern(SYMBOL, "size symbol"),
    ("PayloadConfig", "config"): _state_name,
    ("PayloadMeta", "path_name"): _pattern(_PAYLOAD_NAME, "name of a plain tensor's entry"),
}
"""The rule of each text, by class and field; a mapping's rule is its keys'."""

_REFUSED = frozenset(
    [("Argument", f"as_{kind}") for kind in ["graph", "custom_obj", "operator", "string_to_argument", "nested_tensors"]]
    + [("InputSpec", kind) for kind in ("custom_obj", "token")]
    + [("OutputSpec", kind) for kind in ["gradient_to_parameter", "gradient_to_user_input", "loss_output", "token"]]
    + [("OutputSpec", "parameter_mutation")]
)
"""Members of unions that carry objects, code or training, none of which a server has a use for."""

Policy = Callable[[Any, str], object]


def _left_out(value: object, where: str) -> object:
    return _NOTHING


def _always(value: object) -> Policy:
    return lambda data, where: value


def _node_metadata(data: object, where: str) -> dict[str, str]:
    """Keep the modules that an operator stands in, and the author's line, without the folders of its file."""
    metadata = _object(data, where)
    stack, line = metadata.get("nn_module_stack"), place(metadata.get("stack_trace"))
    kept = {} if not stack else {"nn_module_stack": _text(_module_stack, stack, f"{where}.nn_module_stack")}
    return kept | ({"stack_trace": line} if line else {})


def _call_graph(data: object, where: str) -> list[schema.ModuleCallEntry]:
    """Keep the signature of the whole model, which comes first; those of its modules serve to take it apart."""
    modules = _list(data, where)
    _require(len(modules) > 0, where, data, "a list that begins with the whole model")
    signature = _object(modules[0], where).get("signature")
    rebuilt = _rebuilt(schema.ModuleCallSignature, signature, f"{where}[0].signature")
    return [schema.ModuleCallEntry(fqn="", signature=rebuilt)]


def _device_type(data: object, where: str) -> str:
    """Check the device, and put the CPU in its place: the server moves a model to where it runs."""
    _require(data in _DEVICES, where, data, "a device that a server has (cpu, cuda)")
    return "cpu"


def _dialects(data: object, where: str) -> list[str]:
    names = _list(data, where)
    _require(all(name in _DIALECTS for name in names), where, data, f"a list of {' and '.join(_DIALECTS)}")
    return names


def _raw(data: object, where: str) -> bool:
    if data is not False:
        raise ModelFileError(
            f"{where} is {str(data)[:20]}: a pickled payload can run code, so it is refused. "
            "Export the model with plain tensors as its parameters and buffers."
        )
    return False


def _tensor_meta(data: object, where: str) -> Any:
    return _rebuilt_class(schema.TensorMeta, data, where)


_FIELDS: Mapping[tuple[str, str], Policy] = {
    ("Device", "type"): _device_type,
    ("Device", "index"): _always(None),
    ("Node", "metadata"): _node_metadata,
    ("Node", "is_hop_single_tensor_return"): _left_out,
    ("Graph", "custom_obj_values"): _left_out,
    ("GraphModule", "module_call_graph"): _call_graph,
    ("GraphModule", "metadata"): _left_out,
    ("GraphModule", "treespec_namedtuple_fields"): _left_out,
    ("ModuleCallSignature", "inputs"): _always([]),
    ("ModuleCallSignature", "outputs"): _always([]),
    ("ExportedProgram", "opset_version"): _always({}),
    ("ExportedProgram", "verifiers"): _dialects,
    ("ExportedProgram", "torch_version"): _left_out,
    ("ExportedProgram", "guards_code"): _always([]),
    ("PayloadMeta", "use_pickle"): _raw,
    ("PayloadMeta", "tensor_meta"): _tensor_meta,
}
"""Fields that are not carried over as they stand, by class and field."""
