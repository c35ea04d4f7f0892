"""The registry of explanation methods: `@method` puts a function in, `lookup` finds it.

Importing a method's module registers it: the one exception to the rule that importing has no effect.
"""

import dataclasses
import difflib
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from pellucid_server.engine.asking.verbs import ATTRIBUTE, F, Verb
from pellucid_server.errors import InvalidRequestError, NotFoundError
from pellucid_server.vocabulary.descriptions import MethodInfo, ParameterInfo
from pellucid_server.vocabulary.requests import ParamValue

_TYPES = {int: "integer", float: "real", bool: "flag", str: "text", np.ndarray: "tensor"}


class Need(StrEnum):
    """What a method needs of a model."""

    FORWARD = "forward"
    GRADIENTS = "gradients"
    LAYERS = "layers"


class Axiom(StrEnum):
    """What a method promises; the tests hold every method to what it declares."""

    COMPLETE = "complete"
    """Scores sum to the score's change from baseline to input, but for the gap that is reported."""
    EXACT_ON_LINEAR = "exact-on-linear"
    """On a linear score each element scores its weight times its change from the baseline."""
    SYMMETRIC = "symmetric"
    """Elements that the score treats alike score alike."""
    DUMMY = "dummy"
    """What the score ignores scores 0."""


class Background(StrEnum):
    """Which baselines a method compares with."""

    NONE = "none"
    ONE = "one"
    MANY = "many"


@dataclass(frozen=True, slots=True)
class Cost:
    """Evaluation rows that an answer takes.

    Attributes
    ----------
    forward, backward
        Rows of the whole answer, forward and with gradients at the inputs; where a tolerance decides how many, of the
        first round.
    others
        Rows of other kinds of evaluation, by kind.
    least
        Rows without which there is no answer at all, where they are fewer: for methods that answer before the
        deadline with what they have, and where the number can only be bounded.
    """

    forward: int = 0
    backward: int = 0
    least: "Cost | None" = None
    others: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of the whole answer, of any kind."""
        return self.forward + self.backward + sum(self.others.values())

    @property
    def by_kind(self) -> Mapping[str, int]:
        """Rows of the whole answer by kind of evaluation."""
        return {"forward": self.forward, "gradient": self.backward, **self.others}

    @property
    def lowest(self) -> "Cost":
        """Rows without which there is no answer."""
        return self.least or self


def parameter(
    default: Any,
    text: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a field of a method's `Params`: its default, and what callers are told and held to."""
    metadata = {"default": default, "text": text, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


CostFunction = Callable[[Any, Any], Cost]
"""From a method's `Params` and its verb's question, whose target may be empty, to what the answer costs."""


@dataclass(frozen=True, slots=True)
class Method:
    """A registered method: its function, and what it declares."""

    name: str
    verb: Verb[Any]
    family: str
    source: str
    summary: str
    function: Callable[..., Any]
    """Of the type that the verb says."""
    params: type[Any]
    parameters: Mapping[str, ParameterInfo]
    """The fields of `params` by name, in order."""
    needs: frozenset[Need]
    axioms: frozenset[Axiom]
    baselines: Background
    takes_tolerance: bool
    cost: CostFunction
    rows_parameter: str
    """The parameter that the number of rows is in proportion to; empty if there is none."""
    answers_early: bool
    """Whether it answers before its deadline with what it has; with `takes_tolerance`, it does if it is given one."""
    implies_zero: bool = False
    """Whether, without a baseline, its scores are what elements add over zero."""
    skips_parts: bool = False
    """Whether, of a stream, it leaves out the parts that its question says are done; else they are made again."""

    def resolve(self, parameters: Mapping[str, ParamValue]) -> Any:
        """Check `parameters` and return the method's `Params`, defaults filled in.

        Raises
        ------
        InvalidRequestError
            A name is unknown, a value has the wrong type or is out of range.
        """
        values = {name: _checked(name, value, self.parameters, self.name) for name, value in parameters.items()}
        return self.params(**values)

    def info(self) -> MethodInfo:
        """Describe the method to callers."""
        kinds = {
            Background.NONE: (),
            Background.ONE: ("zeros", "mean", "medoid", "blur", "given"),
            Background.MANY: ("zeros", "mean", "medoid", "blur", "given", "background"),
        }
        return MethodInfo(
            name=self.name,
            rpc=self.verb.name,
            family=self.family,
            summary=self.summary,
            source=self.source,
            parameters=tuple(self.parameters.values()),
            axioms=tuple(sorted(self.axioms)),
            needs=tuple(sorted(self.needs)),
            baselines=kinds[self.baselines],
            takes_tolerance=self.takes_tolerance,
            rows_parameter=self.rows_parameter,
            answers_early=self.answers_early,
        )


_METHODS: dict[str, Method] = {}


def method(
    name: str,
    params: type[Any],
    *,
    verb: Verb[F],
    family: str,
    source: str,
    cost: CostFunction,
    rows_parameter: str = "",
    needs: tuple[Need, ...] = (Need.FORWARD,),
    axioms: tuple[Axiom, ...] = (),
    baselines: Background = Background.ONE,
    takes_tolerance: bool = False,
    answers_early: bool = False,
    implies_zero: bool = False,
    skips_parts: bool = False,
) -> Callable[[F], F]:
    """Register the decorated function under `name`; its docstring's first line is the summary.

    `cost` says beforehand how many rows an answer takes; it may raise what the method itself would.

    Raises
    ------
    ValueError
        Another method has that name, or `rows_parameter` is no parameter.
    """
    infos = _parameter_infos(params)
    if rows_parameter and rows_parameter not in infos:
        raise ValueError(f"{name!r} has no parameter {rows_parameter!r}, to which its rows could be in proportion")

    def register(function: F) -> F:
        if name in _METHODS and _METHODS[name].function.__module__ != function.__module__:
            raise ValueError(f"two methods are called {name!r}")
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        _METHODS[name] = Method(
            name=name,
            verb=verb,
            family=family,
            source=source,
            summary=summary,
            function=function,
            params=params,
            parameters=infos,
            needs=frozenset(needs),
            axioms=frozenset(axioms),
            baselines=baselines,
            takes_tolerance=takes_tolerance,
            cost=cost,
            rows_parameter=rows_parameter,
            answers_early=answers_early,
            implies_zero=implies_zero,
            skips_parts=skips_parts,
        )
        return function

    return register


def discover(package: ModuleType) -> None:
    """Import every module below `package`, so that the methods in them are registered."""
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


def methods() -> tuple[Method, ...]:
    """Return the registered methods by verb, then name."""
    return tuple(sorted(_METHODS.values(), key=lambda entry: (entry.verb.name, entry.name)))


def lookup(name: str, verb: Verb[Any] = ATTRIBUTE, *, field: str = "explanation.method") -> Method:
    """Find a method of a verb.

    Raises
    ------
    InvalidRequestError
        The name is empty, or the method is of another verb.
    NotFoundError
        No method has the name.
    """
    names = [entry.name for entry in methods() if entry.verb == verb]
    listed = ", ".join(names) or "none"
    if not name:
        raise InvalidRequestError(f"{field} is empty; set it to one of: {listed}.", field=field)
    found = _METHODS.get(name)
    if found is None:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise NotFoundError(
            f"No method {name!r}; installed: {listed}.{hint}", resource_type="method", resource_name=name
        )
    if found.verb != verb:
        text = f"{field} {name!r} is a method of {found.verb.rpc}; {verb.rpc} has: {listed}."
        raise InvalidRequestError(text, field=field)
    return found


def require(holds: bool, name: str, value: object, what: str) -> None:
    """Refuse a parameter's value unless `holds`; `what` says what would be right ("must be in [1, 1024]")."""
    if not holds:
        field = f'parameters["{name}"]'
        raise InvalidRequestError(f"{field} is {value!r}; it {what}.", field=field)


def _parameter_infos(params: type[Any]) -> dict[str, ParameterInfo]:
    hints = get_type_hints(params)
    return {entry.name: _parameter_info(entry, hints[entry.name]) for entry in dataclasses.fields(params)}


def _parameter_info(entry: "dataclasses.Field[Any]", hint: Any) -> ParameterInfo:
    kind = _TYPES[_plain_type(hint)]
    meta = entry.metadata
    default: ParamValue | None = entry.metadata["default"]
    return ParameterInfo(
        entry.name, kind, default, meta["minimum"], meta["maximum"], tuple(meta["choices"]), meta["text"]
    )


def _plain_type(hint: Any) -> type[Any]:
    if get_origin(hint) in (Union, UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    origin = get_origin(hint)
    if hasattr(origin, "__value__"):
        # A name given to a type by a `type` statement, as NumPy 2.5 gives one to arrays.
        origin = get_origin(origin.__value__)
    return origin if isinstance(origin, type) else hint


def _checked(name: str, value: ParamValue, known: Mapping[str, ParameterInfo], owner: str) -> ParamValue:
    field = f'parameters["{name}"]'
    if name not in known:
        names = ", ".join(known) or "none"
        raise InvalidRequestError(f"{owner} has no parameter {name!r}; it has: {names}.", field=field)
    info = known[name]
    if info.type == "real" and type(value) is int:
        value = float(value)
    found = next((word for kind, word in _TYPES.items() if type(value) is kind), type(value).__name__)
    require(found == info.type, name, value, f"must be of type {info.type}, not {found}")
    if isinstance(value, float):
        require(math.isfinite(value), name, value, "must be finite")
    if isinstance(value, int | float) and not isinstance(value, bool):
        least = -math.inf if info.minimum is None else info.minimum
        most = math.inf if info.maximum is None else info.maximum
        require(least <= value <= most, name, value, f"must be in [{least:g}, {most:g}]")
    if info.choices:
        require(value in info.choices, name, value, f"must be one of: {', '.join(info.choices)}")
    return value
