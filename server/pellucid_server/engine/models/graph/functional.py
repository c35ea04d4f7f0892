"""Makes an exported program functional: no operator changes a value in place, and every value's description is derived.

torch does it by `run_decompositions`, which traces the graph twice: some 5 ms for each operator. Most networks need
none of it. Where no operator works in place, it is enough to walk the graph once, derive what each value is from
what its operator takes, and take apart the few operators that stand for others (a batch norm, a dropout).
"""

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch._decomp import _should_decompose_because_unsafe_op
from torch._dispatch.python import enable_python_dispatcher
from torch._export.utils import _is_cia_op
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

aten = torch.ops.aten


Check = Callable[[fx.Node], None]
"""Raises an error for a node whose operator cannot take what it is given: `meta["val"]` of its arguments."""


def functional_program(program: ExportedProgram, check: Check = lambda node: None) -> ExportedProgram:
    """Return the program without in-place operators; `meta["val"]` of each node is derived from the inputs'.

    `program` is not changed. What a file says of values between its inputs and outputs is used only where sizes
    depend on data. Each node is checked before what its operator gives is derived.
    """
    explicit = _explicit(program)
    derived = _derived(explicit.graph, check)
    if derived is not None and not any(_of_torch(node) for node in derived.nodes):
        return _with_graph(explicit, derived)
    if any(node.meta.get("unbacked_bindings") for node in program.graph.nodes):
        # What is derived would come too late, and here a file's descriptions of values are kept.
        for node in program.graph.nodes:
            check(node)
    functional: ExportedProgram = explicit.run_decompositions({})
    return functional


def _derived(graph: fx.Graph, check: Check) -> fx.Graph | None:
    """Return a copy of the graph whose values are derived; None if that is not simple."""
    mode = _fake_mode(graph)
    if mode is None or not all(_simple(node) for node in graph.nodes):
        return None
    try:
        return _Derivation(mode, check).run(graph)
    except _NotSimpleError:
        return None
    finally:
        # torch keeps the environments of sizes for longer than their models, each with what was derived in it.
        if mode.shape_env is not None:
            mode.shape_env.fake_tensor_cache.clear()


class _NotSimpleError(Exception):
    """The graph needs torch's own way."""


def _fake_mode(graph: fx.Graph) -> FakeTensorMode | None:
    values = (node.meta.get("val") for node in graph.nodes if node.op == "placeholder")
    return next((value.fake_mode for value in values if hasattr(value, "fake_mode")), None)


def _simple(node: fx.Node) -> bool:
    """Whether a node's value can be derived by calling its operator: no size depends on data."""
    if node.op != "call_function":
        return node.op in ("placeholder", "output")
    if node.meta.get("unbacked_bindings"):
        return False
    return isinstance(node.target, torch._ops.OpOverload) or not isinstance(node.target, torch._ops.OperatorBase)


def _of_torch(node: fx.Node) -> bool:
    """Whether only torch's own way makes an operator functional."""
    return _mutable(node) or node.target is aten.native_batch_norm.default


class _Derivation:
    """Copies a graph, and derives what each value is."""

    def __init__(self, mode: FakeTensorMode, check: Check) -> None:
        self._mode = mode
        self._check = check
        self._graph = fx.Graph()
        self._copies: dict[fx.Node, fx.Node] = {}

    def run(self, graph: fx.Graph) -> fx.Graph:
        """Return the copy."""
        with self._mode, enable_python_dispatcher(), torch.no_grad():
            for node in graph.nodes:
                self._copies[node] = self._copy(node)
        _keep_names(self._graph, self._copies)
        self._graph.eliminate_dead_code()
        return self._graph

    def _copy(self, node: fx.Node) -> fx.Node:
        if node.op != "call_function":
            return self._graph.node_copy(node, self._copies.__getitem__)
        copy = self._graph.node_copy(node, self._copies.__getitem__)
        self._check(copy)
        args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), self._given)
        if _stands_for_others(node.target):
            self._graph.erase_node(copy)
            return self._taken_apart(node, args, kwargs)
        if _mutable(node):
            # An alias takes the change, so that what the value was before stays known.
            args, kwargs = tree_map_only(torch.Tensor, aten.alias.default, (args, kwargs))
        copy.meta["val"] = value = _called(node.target)(*args, **kwargs)
        if any(free_unbacked_symbols(part) for part in tree_leaves(value)):
            raise _NotSimpleError
        return copy

    def _given(self, node: Any) -> Any:
        """Return the value of a node; what is no node is itself."""
        return self._copies[node].meta["val"] if isinstance(node, fx.Node) else node

    def _taken_apart(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        known = {id(copy.meta["val"]): copy for copy in (self._copies[each] for each in node.all_input_nodes)}
        recorder = _Recorder(self._graph, known, {key: value for key, value in node.meta.items() if key != "val"})
        with recorder:
            value = _called(node.target)(*args, **kwargs)
        if not isinstance(value, torch.Tensor):
            raise _NotSimpleError
        made = recorder.node(value)
        if id(value) not in known:
            return made
        # It gave its argument back, as a dropout may that drops nothing.
        same = self._graph.call_function(aten.alias.default, (made,))
        same.meta = {**node.meta, "val": value}
        return same


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes the operators that one operator stands for into a graph."""

    def __init__(self, graph: fx.Graph, known: dict[int, fx.Node], meta: Mapping[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = graph
        self._nodes = dict(known)
        self._meta = meta
        self._held: list[Any] = []

    def node(self, value: torch.Tensor) -> fx.Node:
        """Return the node that makes a value."""
        if id(value) not in self._nodes:
            raise _NotSimpleError
        return self._nodes[id(value)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func._schema.is_mutable:
            raise _NotSimpleError
        result = func(*args, **(kwargs or {}))
        if all(isinstance(part, torch.Tensor) for part in tree_leaves(result)):
            given = tree_map(self._argument, (tuple(args), dict(kwargs or {})))
            self._note(self._graph.call_function(func, *given), result)
        return result

    def _argument(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.node(value)
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            if id(value) not in self._nodes:
                raise _NotSimpleError
            return self._nodes[id(value)]
        return value

    def _note(self, node: fx.Node, result: Any) -> None:
        node.meta = {**self._meta, "val": result}
        self._held.append(result)
        if isinstance(result, torch.Tensor):
            self._nodes[id(result)] = node
            return
        for index, part in enumerate(result):
            item = self._graph.call_function(operator.getitem, (node, index))
            item.meta = {**self._meta, "val": part}
            self._nodes[id(part)] = item


def _called(target: Any) -> Callable[..., Any]:
    """Return the operator of a node that calls a function: fx declares it to be perhaps a text."""
    function: Callable[..., Any] = target
    return function


def _stands_for_others(target: Any) -> bool:
    """Whether an operator is only a name for a series of others that torch itself always puts in its place.

    One that may give back its argument or a view of it (`reshape`, `contiguous`) is left as it is: nothing is
    written to, so that it makes no difference.
    """
    if not isinstance(target, torch._ops.OpOverload) or not _is_cia_op(target):
        return False
    aliasing = any(argument.alias_info is not None for argument in target._schema.arguments)
    return not aliasing and _should_decompose_because_unsafe_op(target)


def _keep_names(graph: fx.Graph, copies: Mapping[fx.Node, fx.Node]) -> None:
    """Call copies what their originals are called: the signature goes by names. Other nodes of the graph make way.

    Copying changes names that Python uses itself, such as "input".
    """
    own, names = set(copies.values()), {node.name for node in copies}
    for node in graph.nodes:
        if node not in own:
            node.name = next(name for name in _alternatives(node.name) if name not in names)
            names.add(node.name)
    for node, copy in copies.items():
        copy.name = node.name


def _alternatives(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(1))


def _with_graph(program: ExportedProgram, graph: fx.Graph) -> ExportedProgram:
    module = fx.GraphModule(program.graph_module, graph)
    module.meta.update(program.graph_module.meta)
    updated: ExportedProgram = program._update(module, program.graph_signature)
    return updated


def _explicit(program: ExportedProgram) -> ExportedProgram:
    """Take away in-place operators as far as that is simple; `run_decompositions` makes the rest functional.

    It does so correctly, but it makes views of a changed value again where they are used first, under the
    path of the module that uses them: a Flatten behind an in-place ReLU would vanish from the layers.
    """
    if not any(_mutable(node) for node in program.graph.nodes):
        return program
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(program.graph, copies))
    graph.output_node().meta.update(program.graph.output_node().meta)
    _keep_names(graph, copies)
    changing = [node for node in graph.nodes if _mutable(node)]
    for node in changing:
        pure = _out_of_place(node, graph.output_node())
        if pure is not None:
            _use_from_there(graph, node.args[0], node)
            node.target = pure
    last_changes = {_base(node): node for node in changing if _mutable(node)}
    for base, node in last_changes.items():
        with graph.inserting_after(node):
            settled = graph.call_function(aten.clone.default, (base,))
        settled.meta = {**node.meta, "val": base.meta["val"]}
        _use_from_there(graph, base, settled)
    return _with_graph(program, graph)


def _use_from_there(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    """Use `new` in place of `old` behind it. The program's outputs stay: its signature names them."""
    output = graph.output_node()
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user > new and user is not output)


def _base(node: fx.Node) -> fx.Node:
    """Return the value whose memory that of `node` is a part of."""
    while node.op == "call_function" and not _fresh(node) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _out_of_place(node: fx.Node, output: fx.Node) -> Any:
    """Return the out-of-place form of an in-place operator if it can simply take its place, or None."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.args:
        return None
    name = node.target._schema.name.removeprefix("aten::")
    changed = node.args[0]
    if not name.endswith("_") or name.startswith("_") or not isinstance(changed, fx.Node):
        return None
    if not _fresh(changed) or any(user is output or (user < node and not _fresh(user)) for user in changed.users):
        return None
    operands = [arg.meta.get("val") for arg in node.all_input_nodes]
    if len({operand.dtype for operand in operands if isinstance(operand, torch.Tensor)}) != 1:
        return None
    packet = getattr(aten, name[:-1], None)
    return getattr(packet, node.target._overloadname, None)


def _mutable(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _fresh(node: fx.Node) -> bool:
    """Tell whether the value of `node` surely shares no memory with another value."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return _fresh(node.args[0])
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    aliasing = any(result.alias_info is not None for result in node.target._schema.returns)
    return not aliasing and torch.Tag.maybe_aliasing_or_mutating not in node.target.tags
