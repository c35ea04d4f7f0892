"""From an exported program to one functional graph, or a refusal that names the remedy."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from pellucid_server.engine.models.graph.declarations import LARGEST_VALUE_BYTES, oversized, unlike_declared
from pellucid_server.engine.models.graph.functional import functional_program
from pellucid_server.engine.models.graph.heads import mark_heads
from pellucid_server.engine.models.graph.lengths import Lengths, read_lengths
from pellucid_server.engine.models.graph.sizes import BatchLayout, batch_layout, expression, row_shape
from pellucid_server.engine.models.operators.allowed import runnable
from pellucid_server.engine.models.operators.contract_rules import TRAINING
from pellucid_server.engine.models.operators.contracts import broken_contract, checked
from pellucid_server.engine.models.operators.cuda_operators import careful
from pellucid_server.engine.models.operators.remedies import place_text

aten = torch.ops.aten

_EXPORT = (
    "Export with example inputs of a batch of at least 2 and axis 0 of every input dynamic, for example "
    "dynamic_shapes={{{0!r}: {{0: torch.export.Dim.DYNAMIC}}}}"
)
_EVAL = "Call model.eval() before torch.export.export: an exported program cannot be switched afterwards."
_FUNCTIONAL = "A dropout that is called as a function needs training=self.training, or p = 0 there."

_VIEWS = (aten.view.default, aten._unsafe_view.default)
_CHECKS = frozenset(
    {
        aten._assert_tensor_metadata.default,
        aten._assert_async.default,
        aten._assert_async.msg,
        aten._assert_scalar.default,
        aten.sym_constrain_range.default,
        aten.sym_constrain_range_for_size.default,
        torch._check,
    }
)
_RECURRENT = frozenset(
    {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input, aten.lstm.data, aten.gru.data}
)
_TRAINING_NORMS = frozenset(
    {
        aten._native_batch_norm_legit_functional.default,
        aten._native_batch_norm_legit.default,
        aten._batch_norm_with_update.default,
        aten._batch_norm_with_update_functional.default,
    }
)
_HARMLESS_WHEN_SEEDED = frozenset({aten.scaled_dot_product_attention.default}) | _RECURRENT


class UnfitModelError(Exception):
    """The model cannot be served or cut as it is. The message says what is wrong and the remedy."""


@dataclass(frozen=True)
class GraphValue:
    """An input or output of a graph.

    Attributes
    ----------
    name
        For an input the argument's name in the author's `forward`; see `Graph` for outputs.
    dtype
        Type of its elements.
    shape
        Shape of one row, without the batch; None where it is dynamic.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class FunctionalGraph:
    """A functional graph and what it needs to run.

    Attributes
    ----------
    graph
        Placeholders in the order of `inputs`, tensors as `get_attr` of a name in `tensors`, and an
        output node holding one tuple in the order of `outputs`. Never changed after it is made.
    tensors
        Parameters, buffers and constants, frozen, on the device.
    batch
        The symbol of the batch.
    largest_batch
        Largest batch the export promises, or None for any.
    lengths
        What the export promises of axes that are open.
    """

    graph: fx.Graph
    tensors: Mapping[str, torch.Tensor]
    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]
    batch: Any
    largest_batch: int | None
    lengths: Lengths


def read_program(program: ExportedProgram, *, device: str = "cpu") -> FunctionalGraph:
    """Make an exported program functional, check that it can be served, and place it on `device`.

    `program` is not changed. Parameters on `device` already are shared with it, not copied.

    Raises
    ------
    UnfitModelError
        If rows cannot be packed: the batch is fixed or not axis 0 of every input and output; if a
        forward pass is not a function of the rows: it changes buffers, is in training mode or random; or if
        weights are not as the graph says, an operator is given what it cannot take, or a value is too large.
    """
    unlike = unlike_declared(program)
    if unlike is not None:
        raise UnfitModelError(f"{unlike}. The file contradicts itself: export the model again.")
    functional = _functional(program)
    for node in functional.graph.nodes:
        _refuse_training(node)
        _refuse_unlisted(node)
        _refuse_unsafe(node)
    _refuse_mutation(functional)
    placeholders = _inputs(functional)
    batch, largest = _batch(functional, placeholders)
    results = _outputs(functional, batch)
    graph, tensors = _plain_graph(functional, placeholders, list(results.values()), torch.device(device))
    mark_heads(graph, batch)
    inputs = tuple(_value(name, node) for name, node in placeholders.items())
    outputs = tuple(_value(name, node) for name, node in results.items())
    lengths = read_lengths(functional, {name: node.meta["val"] for name, node in placeholders.items()}, batch)
    return FunctionalGraph(graph, tensors, inputs, outputs, batch, largest, lengths)


def assemble(graph: fx.Graph, tensors: Mapping[str, torch.Tensor]) -> Callable[..., tuple[Any, ...]]:
    """Return `graph` as a function of its placeholders that shares `tensors`. Operators check their contracts.

    The graph keeps the plain operators, by which others know what a node does.
    """
    graph = _checking(graph)
    used = {str(node.target): tensors[str(node.target)] for node in graph.nodes if node.op == "get_attr"}
    module = fx.GraphModule(used, graph)
    # Found in the instance before nn.Module's __getattr__, which is a slow Python function.
    vars(module).update(used)
    run: Callable[..., tuple[Any, ...]] = module.forward
    return run


def _checking(graph: fx.Graph) -> fx.Graph:
    """Return the graph with operators that check their contracts and are careful on CUDA; itself if none needs it."""
    if all(_guarded(node.target) is node.target for node in graph.nodes if node.op == "call_function"):
        return graph
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in copy.nodes:
        if node.op == "call_function":
            node.target = _guarded(node.target)
    return copy


def _guarded(target: Any) -> Callable[..., Any]:
    return careful(target, checked(target))


def _value(name: str, node: fx.Node) -> GraphValue:
    value = node.meta["val"]
    return GraphValue(name, value.dtype, row_shape(value))


def _functional(program: ExportedProgram) -> ExportedProgram:
    """Make a program functional, and derive what each value is from the inputs' sizes alone."""
    try:
        return functional_program(program, _refuse_unsafe)
    except UnfitModelError:
        raise
    except Exception as error:
        raise UnfitModelError(
            f"The values of the graph cannot be derived from its inputs ({type(error).__name__}): an operator is given "
            "what does not fit it. The file contradicts itself: export the model again."
        ) from error


# What cannot be served


def _refuse_training(node: fx.Node) -> None:
    where = _where(node)
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        raise UnfitModelError(
            f"{where} uses the operator {node.target}, which holds a graph of its own (control flow or the like). "
            "Write the forward with torch.where in place of conditions."
        )
    counting = _argument(node, "running_mean") is not None and _argument(node, "use_input_stats")
    if node.target in _TRAINING_NORMS or counting:
        raise UnfitModelError(f"{where} normalizes in training mode, by the batch it happens to be in. {_EVAL}")
    dropout = _argument(node, "dropout_p") or (_argument(node, "dropout") and _argument(node, "train"))
    if dropout:
        raise UnfitModelError(f"{where} drops values at random, as in training. {_EVAL} {_FUNCTIONAL}")
    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags and node.target not in _HARMLESS_WHEN_SEEDED:
        if _argument(node, "training") is False or _argument(node, "train") is False:
            return
        raise UnfitModelError(
            f"{where} is random ({node.target}): the same row would have different answers. "
            f"{_EVAL} {_FUNCTIONAL} Take other random operators out of forward, or pass the random numbers as an input."
        )


def _refuse_unlisted(node: fx.Node) -> None:
    if isinstance(node.target, torch._ops.OpOverload) and node.target not in _CHECKS and not runnable(node.target):
        raise UnfitModelError(
            f"{_where(node)} comes down to the operator {node.target}, which is not on the list of those that a "
            "server runs. Write the forward without it."
        )


def _refuse_unsafe(node: fx.Node) -> None:
    broken = broken_contract(node)
    if broken == TRAINING:
        raise UnfitModelError(f"{_where(node)} normalizes in training mode, by the batch it happens to be in. {_EVAL}")
    if broken is not None:
        raise UnfitModelError(
            f"{_where(node)} gives the operator {node.target} {broken}. torch does not check this itself; "
            "export the model again, or correct the file."
        )
    large = oversized(node)
    if large is not None:
        raise UnfitModelError(
            f"{_where(node)} makes a value of {large} bytes for one row ({node.target}); up to {LARGEST_VALUE_BYTES} "
            "are served. Make it in parts, or leave it out of forward."
        )


def _argument(node: fx.Node, name: str) -> Any:
    """Return what an operator is given for the argument of its schema called `name`; None without one."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.name == name:
            given = node.kwargs.get(name, argument.default_value)
            return node.args[position] if position < len(node.args) else given
    return None


def _where(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(stack.values()), ("", ""))
    name = str(kind).rsplit(".", maxsplit=1)[-1]
    module = f"Layer {path!r} ({name})" if path else "The model's forward"
    return module + place_text(node.meta.get("stack_trace"))


def _refuse_mutation(program: ExportedProgram) -> None:
    kinds = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)
    names = [str(spec.target) for spec in program.graph_signature.output_specs if spec.kind in kinds]
    if names:
        raise UnfitModelError(
            f"A forward pass changes the buffers {', '.join(names)}, so that answers depend on earlier calls. "
            "Take the counter or cache out of forward, or return it as an output."
        )


def _inputs(program: ExportedProgram) -> dict[str, fx.Node]:
    """Return the placeholders of the caller's inputs by the author's names, in order."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    found: dict[str, fx.Node] = {}
    for name, spec in zip(_input_names(program), specs, strict=True):
        if not isinstance(spec.arg, TensorArgument):
            raise UnfitModelError(
                f"Input {name!r} is not a tensor. Give the argument its default, or set it in the module's "
                "constructor, before the export."
            )
        if name in found:
            raise UnfitModelError(f"Two inputs are called {name!r}. Rename an argument of forward.")
        found[name] = nodes[spec.arg.name]
    if not found:
        raise UnfitModelError("The model has no inputs. Export a forward that takes its rows as tensor arguments.")
    return found


def _input_names(program: ExportedProgram) -> list[str]:
    spec = program.call_spec.in_spec
    if spec is None:
        return [str(name) for name in program.graph_signature.user_inputs]
    arguments = _signature_names(program)
    keys = pytree.tree_flatten_with_path(pytree.tree_unflatten([0] * spec.num_leaves, spec))[0]
    names = []
    for path, _ in keys:
        positional = _key(path[0]) == "0"
        first = arguments[int(_key(path[1]))] if positional else _key(path[1])
        names.append("_".join([first, *map(_key, path[2:])]))
    return names


def _signature_names(program: ExportedProgram) -> list[str]:
    signature = program.module_call_graph[0].signature
    names = signature.forward_arg_names if signature else None
    return list(names) if names else [str(name) for name in program.graph_signature.user_inputs]


def _key(key: Any) -> str:
    """Return one step of a pytree's path as a word: a position, a dictionary's key or a field's name."""
    for attribute in ("idx", "key", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _batch(program: ExportedProgram, inputs: Mapping[str, fx.Node]) -> tuple[Any, int | None]:
    """Return the symbol that is axis 0 of every input, and the largest batch."""
    first = next(iter(inputs))
    symbols = {}
    for name, node in inputs.items():
        shape = node.meta["val"].shape
        if not shape:
            raise UnfitModelError(f"Input {name!r} is a single number, without an axis for rows. Give it axis 0.")
        symbols[name] = expression(shape[0])
        if not getattr(symbols[name], "is_Symbol", False):
            raise UnfitModelError(
                f"Axis 0 of input {name!r} is fixed to {symbols[name]}, so that rows cannot be packed. "
                f"{_EXPORT.format(name)}; a batch of 1, and a forward that writes the batch size into a shape, "
                "such as view(2, -1), fix it."
            )
        if symbols[name] != symbols[first] or batch_layout(node, symbols[first]) is not BatchLayout.ROWS:
            raise UnfitModelError(
                f"Axis 0 of input {name!r} ({symbols[name]}) is not the batch of input {first!r} ({symbols[first]}). "
                "Give both the same torch.export.Dim('batch') on axis 0, and on no other axis."
            )
    batch = symbols[first]
    return batch, _largest(program, batch)


def _largest(program: ExportedProgram, batch: Any) -> int | None:
    limits = program.range_constraints.get(batch)
    if limits is None:
        return None
    if limits.lower > 2:
        raise UnfitModelError(
            f"The batch was exported for at least {limits.lower} rows. Export with torch.export.Dim.DYNAMIC, or a "
            "torch.export.Dim without a minimum, on axis 0."
        )
    return int(limits.upper) if limits.upper.is_Integer else None


def _outputs(program: ExportedProgram, batch: Any) -> dict[str, fx.Node]:
    """Return the nodes of the outputs by name, in order."""
    node = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    leaves = node.args[0]
    specs = program.graph_signature.output_specs
    users = [(leaf, spec) for leaf, spec in zip(leaves, specs, strict=True) if spec.kind == OutputKind.USER_OUTPUT]
    found: dict[str, fx.Node] = {}
    for name, (leaf, spec) in zip(_output_names(program, len(users)), users, strict=True):
        if isinstance(spec.arg, ConstantArgument) and spec.arg.value is None:
            continue
        if not isinstance(leaf, fx.Node) or not isinstance(leaf.meta.get("val"), torch.Tensor):
            raise UnfitModelError(f"Output {name!r} is not a tensor. Return tensors from forward, one row a batch row.")
        if batch_layout(leaf, batch) is not BatchLayout.ROWS:
            shape = tuple(map(str, leaf.meta["val"].shape))
            raise UnfitModelError(
                f"Output {name!r} has the shape ({', '.join(shape)}), whose axis 0 is not the batch {batch}. "
                "Return it with one entry a row on axis 0, for example by transposing it in forward."
            )
        if name in found:
            raise UnfitModelError(f"Two outputs are called {name!r}. Rename a key of what forward returns.")
        found[name] = leaf
    if not found:
        raise UnfitModelError("The model has no outputs. Return tensors from forward.")
    return found


def _output_names(program: ExportedProgram, count: int) -> list[str]:
    spec = program.call_spec.out_spec
    if spec is None:
        return [f"output_{position}" for position in range(count)]
    paths = [path for path, _ in pytree.tree_flatten_with_path(pytree.tree_unflatten([0] * count, spec))[0]]
    return ["_".join(_from_the_first_word([_key(key) for key in path])) for path in paths]


def _from_the_first_word(words: list[str]) -> list[str]:
    """Put "output" before a path that is empty or starts with a position."""
    return words if words and not words[0].isdecimal() else ["output", *words]


# The graph itself


def _plain_graph(
    program: ExportedProgram, inputs: Mapping[str, fx.Node], outputs: list[fx.Node], device: torch.device
) -> tuple[fx.Graph, dict[str, torch.Tensor]]:
    """Copy the program's graph with plain placeholders and outputs, without checks and dead code."""
    lifted = dict(_lifted_tensors(program))
    tensors = {name: tensor.detach().to(device) for name, tensor in lifted.items()}
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in inputs.values():
        copies[node] = graph.node_copy(node)
    for node in program.graph.nodes:
        if node in copies or node.op == "output" or node.target in _CHECKS:
            continue
        copies[node] = _copy(graph, node, copies, lifted, device)
    graph.output(tuple(copies[node] for node in outputs))
    graph.eliminate_dead_code()
    graph.lint()
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    return graph, {name: tensor for name, tensor in tensors.items() if name in used}


def _lifted_tensors(program: ExportedProgram) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every parameter, buffer and constant under its placeholder's name."""
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT or spec.target is None:
            continue
        known = program.state_dict if spec.target in program.state_dict else program.constants
        tensor = known.get(spec.target)
        if not isinstance(tensor, torch.Tensor):
            raise UnfitModelError(
                f"The program holds {spec.target!r}, which is not a tensor. Export a module of tensors alone."
            )
        yield spec.arg.name, tensor


def _copy(
    graph: fx.Graph,
    node: fx.Node,
    copies: Mapping[fx.Node, fx.Node],
    lifted: Mapping[str, torch.Tensor],
    device: torch.device,
) -> fx.Node:
    if node.op == "placeholder" and node.name in lifted:
        copy = graph.create_node("get_attr", node.name, name=node.name)
        copy.meta = dict(node.meta)
        return copy
    copy = graph.node_copy(node, copies.__getitem__)
    if copy.target in _VIEWS:
        # A value fed into a suffix may have other strides than the export saw; a view would refuse it.
        copy.target = aten.reshape.default
    if copy.target is aten.view_as.default:
        copy.target = aten.reshape_as.default
    if copy.target is aten.clone.default and not copy.kwargs:
        # What is left of a dropout. No value is ever written to, so that no copy is needed.
        copy.target = aten.alias.default
    if copy.target is aten.copy.default:
        # What is left of a write to a part of a value; the operator has no derivative.
        copy.target = _copied
    if copy.target is aten.view_as_real.default:
        # An export cannot see that a transform gives its result conjugated, and leaves out what resolves it.
        copy.target = _as_real
    moved = fx.node.map_aggregate(
        (copy.args, copy.kwargs), lambda part: device if isinstance(part, torch.device) else part
    )
    copy.args, copy.kwargs = moved
    return copy


def _copied(to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Return `source` in the shape and type of `to`."""
    return source.to(to.dtype).expand_as(to)


def _as_real(value: torch.Tensor) -> torch.Tensor:
    """Return the real and imaginary parts on a last axis."""
    return torch.view_as_real(value.resolve_conj())
