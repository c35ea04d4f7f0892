"""Every function of torch on tensors, every operator of Python and every module of `torch.nn`: served, or a reason.

What torch lists is read off torch itself, so that a new version shows what is missing.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pellucid_server.engine.models.exported.archive import ModelFileError
from pellucid_server.engine.models.exported.torch_versions import VERSION
from pellucid_server.engine.models.graph.graph import UnfitModelError
from pellucid_server.engine.models.operators.allowed import allowed, filled
from pellucid_server.engine.models.operators.remedies import place, place_text, refusal
from server.engine.models.exporting import EXPORTED, Group, group_failures, operators_of, rows, served
from server.engine.models.module_cases import MODULES, OTHER_MODULES, REFUSED_MODULES, OneModule
from server.engine.models.operator_cases import EXPRESSIONS, NO_OPERATORS, OTHERS, REFUSED, UNEXPORTED, Function
from server.engine.models.operator_names import call, listed_functions, python_operators
from torch import nn

SPLITS = 6
"""Groups that functions are exported in: one graph each, as an export takes most of its time once."""

BY_TORCH = re.compile(
    r"i(add|sub|mul|truediv|floordiv|mod|pow|and|or|xor|lshift|rshift)|.*_|setitem|empty_like|new_empty"
    r"|.*getitem|.*unique.*|masked_select|nonzero|argwhere|.*item|native_batch_norm|unsafe_chunk"
)
"""Functions that work in place, or give as many values as the data say, and two more.

With one in a graph, torch itself derives what each value of it is, which takes long, and fails at two losses.
"""

_FROM_2_13 = ("hash_tensor", "nanquantile", "quantile")
"""What torch itself cannot export, or not with open sizes, before."""

_OTHERS = {name for names in OTHERS.values() for name in names.split()}
_FILLING = {
    "torch.ops.aten.empty_like.default",
    "torch.ops.aten.new_empty.default",
    "torch.ops.aten.empty.memory_format",
}
_DUNDER = "Tensor.__"


def _known_elsewhere(name: str) -> bool:
    """Tell whether a method is an operator of Python, or a function of its name is a case of its own."""
    base = name.removeprefix("Tensor.")
    return name.startswith(_DUNDER) or any(base in table for table in (EXPRESSIONS, REFUSED, UNEXPORTED))


def _functions() -> dict[str, Function]:
    """Return the functions that are served, without methods, by name."""
    found = dict(EXPRESSIONS)
    for name in sorted(listed_functions()):
        made = None if name.startswith("Tensor.") or name in REFUSED or name in UNEXPORTED else call(name)
        if made is not None and name not in found:
            found[name] = made
    return found


def _methods() -> dict[str, Function]:
    names = [name for name in sorted(listed_functions()) if name.startswith("Tensor.")]
    apart = {*EXPRESSIONS, *REFUSED, *UNEXPORTED}
    return {name: made for name in names if name not in apart and (made := call(name)) is not None}


FUNCTIONS, METHODS = _functions(), _methods()


def _of_split(split: int) -> dict[str, Function]:
    unknown = () if VERSION == "2.13" else _FROM_2_13
    names = sorted(name for name in FUNCTIONS if not BY_TORCH.fullmatch(name) and name not in unknown)
    return {name: FUNCTIONS[name] for name in names[split::SPLITS]}


def _missing(function: Function) -> list[str]:
    return sorted(target for target in operators_of(function) if not allowed(filled(target, [])[0]))


newest = pytest.mark.skipif(VERSION != "2.13", reason="what torch has is listed for 2.13")


def _modules() -> set[str]:
    kinds = {name: getattr(nn, name) for name in dir(nn)}
    return {name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, nn.Module)}


@newest
def test_every_function_that_torch_lists_is_served_or_has_a_reason() -> None:
    listed = listed_functions()
    known = {*FUNCTIONS, *METHODS, *REFUSED, *UNEXPORTED, *_OTHERS}

    assert {name for name in listed - known if not _known_elsewhere(name)} == set(), (
        "new in torch: say how it is called"
    )
    assert _OTHERS - listed == set(), "torch has them no longer"
    assert _OTHERS & {*FUNCTIONS, *METHODS, *REFUSED, *UNEXPORTED} == set(), "a reason and a case"
    assert len(FUNCTIONS) + len(METHODS) > 1000


def test_every_operator_of_python_is_served_or_has_a_reason() -> None:
    reasons = {name for names in NO_OPERATORS.values() for name in names.split()}

    assert python_operators() - set(EXPRESSIONS) == reasons


@newest
def test_every_module_of_torch_is_served_or_has_a_reason() -> None:
    reasons = {name for names in OTHER_MODULES.values() for name in names.split()}

    assert _modules() == {*MODULES, *REFUSED_MODULES, *reasons}
    assert len(MODULES) > 140


@pytest.mark.parametrize("split", range(SPLITS))
def test_functions_and_operators_agree_with_torch_in_values_and_derivatives(tmp_path: Path, split: int) -> None:
    assert group_failures(_of_split(split), tmp_path) == {}


def test_functions_of_which_torch_derives_the_values_agree_with_it_too(tmp_path: Path) -> None:
    functions = {name: function for name, function in FUNCTIONS.items() if BY_TORCH.fullmatch(name)}

    assert len(functions) > 20
    assert group_failures(functions, tmp_path) == {}


@pytest.mark.parametrize("split", range(4))
def test_modules_agree_with_torch_in_values_and_derivatives(tmp_path: Path, split: int) -> None:
    modules = {name: OneModule(MODULES[name]) for name in sorted(MODULES)[split::4]}

    assert group_failures(modules, tmp_path) == {}


def test_methods_come_to_operators_on_the_list() -> None:
    names = sorted(METHODS)

    for start in range(0, len(names), 50):
        methods = {name: METHODS[name] for name in names[start : start + 50]}
        if missing := _missing(lambda values, methods=methods: [method(values) for method in methods.values()]):
            pytest.fail(f"{missing}: { ({name: _missing(method) for name, method in methods.items()}) }")


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_function_is_named_with_its_reason(name: str) -> None:
    reason, function = REFUSED[name]

    targets = _missing(function)

    assert targets, "it would be served: move it to the cases"
    assert any(re.search(reason, refusal(target, {})) for target in targets)


@pytest.mark.parametrize("name", UNEXPORTED)
def test_what_torch_does_not_export_is_not_served(tmp_path: Path, name: str) -> None:
    assert group_failures({name: UNEXPORTED[name]}, tmp_path) != {}, "it would be served: move it to the cases"


@pytest.mark.parametrize("name", REFUSED_MODULES)
def test_a_refused_module_is_named_with_its_reason(tmp_path: Path, name: str) -> None:
    reason, case = REFUSED_MODULES[name]
    failures = group_failures({name: OneModule(case)}, tmp_path)

    assert failures, "it would be served: move it to the cases"
    assert re.search(reason, failures[name])


def test_a_decomposed_program_is_served_as_well(tmp_path: Path) -> None:
    names = [
        *("cdist", "layer_norm", "grid_sampler_2d", "logsumexp", "max_pool2d", "group_norm", "std"),
        *(
            f"nn.functional.{name}"
            for name in ("conv2d", "pdist", "gelu", "scaled_dot_product_attention", "huber_loss")
        ),
    ]

    assert group_failures({name: FUNCTIONS[name] for name in names}, tmp_path, decomposed=True) == {}


class _Two(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner = _Inner(function)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class _Inner(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.function(x)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda x: torch.bernoulli(x.sigmoid()),
            r"Layer 'inner' \(_Inner\) uses the operator 'aten\.bernoulli\.default' \(test_operators\.py, line \d+.*"
            r"is random.*: refused\. Call model\.eval\(\).*as an input",
        ),
        (lambda x: x.as_strided((1, 4), (4, 1)), r"'aten\.as_strided\.default' .*line \d+.*torch\.Tensor\.unfold"),
    ],
)
def test_a_refusal_names_the_operator_the_line_and_a_way_round(
    tmp_path: Path, function: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    with pytest.raises(ModelFileError, match=words) as caught:
        served(_Two(function), {"x": torch.ones(3, 4)}, tmp_path)

    assert str(Path(__file__).parent) not in str(caught.value), "the folders of the author's machine"
    assert "export it again" not in str(caught.value)


def test_a_dropout_that_is_always_on_names_its_line_and_the_argument(tmp_path: Path) -> None:
    with pytest.raises(UnfitModelError, match=r"test_operators\.py, line \d+.*training=self\.training"):
        served(_Two(lambda x: nn.functional.dropout(x, 0.5)), {"x": torch.ones(3, 4)}, tmp_path)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("torch.ops.higher_order.cond", "graph of its own.*torch.where"),
        ("torch.ops.higher_order.while_loop", "loop out in Python"),
        ("torch.ops.higher_order.wrap_with_set_grad_enabled", "torch.no_grad"),
        ("torch.ops.torchvision.nms.default", "library 'torchvision'.*functions of torch"),
        ("torch.ops.quantized_decomposed.quantize_per_tensor.default", "before quantization"),
        ("torch.ops.aten.convolution_backward.default", "backward pass"),
        ("torch.ops.aten.no_such_thing.default", r"which torch \d\.\d+\.\d+ does not have"),
        ("_operator.xor", "arithmetic on sizes"),
        ("torch.ops.aten.add.out", "writes into"),
    ],
)
def test_each_family_of_operators_has_its_way_round(target: str, words: str) -> None:
    assert not allowed(target)
    assert re.search(words, refusal(target, {}))


@pytest.mark.parametrize(
    ("trace", "found"),
    [
        ('File "/home/ann/net.py", line 3, in forward\n    return x + y', " (net.py, line 3: return x + y)"),
        (r'File "C:\work\net.py", line 3, in forward', " (net.py, line 3)"),
        (
            'File "/a/net.py", line 7, in forward\n    y = f(x)\n  File "/a/helpers.py", line 2, in f\n    return x',
            " (helpers.py, line 2 in f: return x)",
        ),
        (
            'File "/a/net.py", line 7, in forward\n    y = self.lin(x)\n'
            '  File "/v/site-packages/torch/nn/modules/linear.py", line 134, in forward\n    return F.linear(x)',
            " (net.py, line 7: y = self.lin(x))",
        ),
        ("no trace at all", ""),
        (None, ""),
        ('File "net.py", line 3, in forward\n    x\x1b[31m', " (net.py, line 3)"),
        ('File "net\x00.py", line 3, in forward', ""),
        ('File "' + "n" * 3000 + '.py", line 3, in forward', ""),
        ("F" * 100_000, ""),
    ],
)
def test_of_a_stack_trace_the_author_s_own_line_is_kept_without_folders(trace: object, found: str) -> None:
    assert place_text(trace) == found
    assert place_text(place(trace)) == found


def test_a_comparison_and_flags_joined_are_the_numbers_worked_out_by_hand(tmp_path: Path) -> None:
    class Masks(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"positive": x * (x > 0), "within": ((x < 1) & (x > 0)).float() * x}

    outputs = served(Masks(), {"x": torch.ones(3, 2)}, tmp_path)({"x": torch.tensor([[0.5, 2.0], [-1.0, 1.0]])})

    assert outputs["positive"].tolist() == [[0.5, 2.0], [0.0, 1.0]]
    assert outputs["within"].tolist() == [[0.5, 0.0], [0.0, 0.0]]


def test_memory_that_forward_never_writes_is_zeros(tmp_path: Path) -> None:
    graph = served(Group({"empty": lambda v: torch.empty_like(v.x)}), rows(EXPORTED), tmp_path)

    assert graph(rows(2))["empty/0"].abs().max() == 0.0
