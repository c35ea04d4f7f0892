"""Handles that answer whole outputs from a function, and questions for counterfactuals about them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.counterfactuals import CellColumn, Cells, CounterfactualQuestion, Goal
from pellucid_server.engine.asking.handle import Answer
from pellucid_server.engine.asking.question import Arrays, Feature, Scores, Target
from pellucid_server.engine.asking.verbs import COUNTERFACTUAL
from pellucid_server.engine.evaluations.forward import Forward
from pellucid_server.engine.models.files.manifest import ColumnManifest, InputManifest
from pellucid_server.engine.models.inputs.tables import TablePreprocessor
from pellucid_server.vocabulary.requests import TableInput
from server.engine.methods.closed_forms import Formula, grown


class Network(Formula):
    """Answers from a torch function of the inputs, (rows, *features) in float64, to outputs (rows, elements).

    `evaluated` has every row that was asked for, `asks` how often.
    """

    def __init__(self, function: Callable[[Mapping[str, torch.Tensor]], torch.Tensor], **options: Any) -> None:
        self._outputs = function
        self._target = Target("y", ((0, 1.0),))
        self.evaluated: list[Arrays] = []
        super().__init__(self._score, **options)

    def _score(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        outputs = self._outputs(inputs)
        if self._target.space:
            outputs = outputs.softmax(-1) if self._target.space == "softmax" else outputs.sigmoid()
        return sum(weight * outputs[:, element] for element, weight in self._target.elements)

    def ask(self, ask: Any, *, progress: tuple[float, float] | None = None) -> Answer:
        self.evaluated.append(rows := grown(ask.rows))
        if isinstance(ask, Forward):
            count = len(next(iter(rows.values())))
            self.sizes["scores"].append(count)
            self._seconds -= self._forward_seconds * count
            if progress is not None:
                self.progress(progress[1])
            tensors = {name: torch.from_numpy(np.array(array)).double() for name, array in rows.items()}
            return Answer({"y": self._outputs(tensors).detach().numpy()})
        self._target = ask.target
        return super().ask(ask, progress=progress)

    def gradient(self, rows: Arrays, target: Target, *, at: str = "") -> tuple[Scores, Arrays]:
        self._target = target
        return super().gradient(rows, target, at=at)


def linear(weights: Any, offset: float = 0.0, name: str = "x") -> Callable[[Mapping[str, torch.Tensor]], torch.Tensor]:
    """Return a function to two elements, 0 and w·x + offset: the second is the highest beyond the hyperplane."""
    weights = torch.as_tensor(np.asarray(weights), dtype=torch.float64)

    def function(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        score = inputs[name].reshape(len(inputs[name]), -1) @ weights.reshape(-1) + offset
        return torch.stack([torch.zeros_like(score), score], dim=1)

    return function


def tensor_row(x: Any, goal: Goal | None = None, **options: Any) -> CounterfactualQuestion:
    """Ask about one tensor, "x"."""
    row = np.asarray(x, np.float32)
    settings: dict[str, Any] = {"features": {"x": Feature("tensor", True)}, "target": Target("y", ((1, 1.0),))}
    return CounterfactualQuestion(inputs={"x": row}, goal=goal or Goal(other_than=0), **{**settings, **options})


def table_row(
    columns: Sequence[ColumnManifest],
    row: Mapping[str, float | str],
    goal: Goal | None = None,
    *,
    rules: Mapping[str, Mapping[str, Any]] | None = None,
    background: Sequence[Mapping[str, float | str]] = (),
    **options: Any,
) -> CounterfactualQuestion:
    """Ask about one table, "x", prepared as the server does; `rules` are fields of `CellColumn` by column."""
    width = sum(len(c.categories) if c.categories and c.encoding == "one-hot" else 1 for c in columns)
    table = TablePreprocessor(InputManifest("x", "tabular", columns=tuple(columns)), np.dtype(np.float32), (width,))
    given = TableInput((dict(row),))
    reference = TableInput(tuple(dict(each) for each in background))
    known = table.prepare(reference, "x").rows if background else np.zeros((0, width), np.float32)
    cells = Cells(
        columns=tuple(_cell(c, **(rules or {}).get(c.name, {})) for c in columns),
        values=table.values(given)[0],
        encode=table.encode,
        elements=np.where([bool(c.categories) for c in columns], -1, table.starts),
        slopes=table.slopes,
        background=table.decode(known),
    )
    settings: dict[str, Any] = {"features": {"x": table.feature}, "target": Target("y", ((1, 1.0),))}
    return CounterfactualQuestion(
        inputs={"x": table.prepare(given, "x").rows[0]},
        goal=goal or Goal(other_than=0),
        cells={"x": cells},
        background={"x": known} if background else {},
        **{**settings, **options},
    )


def _cell(column: ColumnManifest, **rule: Any) -> CellColumn:
    settings: dict[str, Any] = {
        "unit": column.unit,
        "minimum": -np.inf if column.minimum is None else column.minimum,
        "maximum": np.inf if column.maximum is None else column.maximum,
        "categories": column.categories,
        "allowed": tuple(range(len(column.categories))),
    }
    return CellColumn(column.name, **{**settings, **rule})


def answered(handle: Any, question: CounterfactualQuestion, **parameters: Any) -> Any:
    """Return what the method finds of one row."""

    method = registry.lookup("counterfactual", COUNTERFACTUAL)
    (found,) = method.function(handle, (question,), method.resolve(parameters))
    return found


def lines(found: Any, name: str) -> list[dict[str, Any]]:
    """Return a table of findings as a dict for each of its rows; None where a value is missing."""
    columns = found.tables[name].columns
    count = len(next(iter(columns.values())).values)
    return [
        {
            key: None
            if column.missing is not None and column.missing[at]
            else (column.values[at] if isinstance(column.values, tuple) else column.values[at].item())
            for key, column in columns.items()
        }
        for at in range(count)
    ]
