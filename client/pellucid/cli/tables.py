"""Results as tables for a terminal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pellucid.catalogue import Dataset, InputSignature, Method, Model, ModelSummary, Parameter
from pellucid.receipts import Receipt, plain
from pellucid.results import Attribution, ExplanationOutcome, Prediction, Timing, TopClasses

_MOST_COLUMNS = 15
_MOST_LABELS = 6


def show_prediction(console: Console, prediction: Prediction, names: Sequence[str]) -> None:
    """Print the highest classes of each row, or the values of outputs without classes, and the receipt's heart."""
    for output, values in prediction.outputs.items():
        for row, value in enumerate(values):
            named = names[row] if row < len(names) else f"row {row}"
            if output in prediction.tops:
                _show_classes(console, f"{named}: {output}", prediction.tops[output][row])
            else:
                say(console, f"{named}: {output} = {np.array2string(value, precision=6, threshold=20)}")
    for warning in prediction.warnings:
        say(console, f"Note: {warning}", style="yellow")
    for outcome in prediction.explanations:
        _show_outcome(console, outcome)
    _show_end(console, prediction.receipt, prediction.timing)


def show_attributions(console: Console, attributions: Sequence[Attribution]) -> None:
    """Print what each row's score was based on, and how good the explanation is."""
    for row, attribution in enumerate(attributions):
        if len(attributions) > 1:
            say(console, f"Row {row}", style="bold")
        _show_attribution(console, attribution)
    if attributions:
        _show_end(console, attributions[-1].receipt, attributions[-1].timing)


def show_models(console: Console, summaries: Sequence[ModelSummary]) -> None:
    """Print the models, a line each; those that the server could not load with the reason."""
    rows = [
        [each.name, str(each.version or ""), "yes" if each.latest else "", each.state, each.reason or each.description]
        for each in summaries
    ]
    show_table(console, ["model", "version", "latest", "state", "description"], rows)


def show_model(console: Console, model: Model, *, layers: bool) -> None:
    """Print a model's signature and capabilities, and its layers on request."""
    if model.state == "broken":
        say(console, f"{model.name} version {model.version or 'unknown'}: broken", style="bold red")
        say(console, f"The server could not load it: {model.reason}")
        return
    say(console, f"{model.name} version {model.version}", style="bold")
    say(console, model.description)
    parity = f", parity {model.parity.largest_difference:.2g}" if model.parity is not None else ""
    solo = ", rows kept apart" if model.solo else ""
    say(console, f"served by {model.runtime}{parity}, {model.background_rows} background rows{solo}")
    say(console, f"digest {model.key.digest}", style="dim")
    rows = [[each.name, each.modality, each.data_type, _shape(each.shape), _takes(each)] for each in model.inputs]
    show_table(console, ["input", "modality", "type", "a row's shape", "takes"], rows)
    if any(each.columns for each in model.inputs):
        _show_columns(console, model)
    rows = [
        [each.name, each.kind, each.data_type, _shape(each.shape), _labels(each.labels, each.unit)]
        for each in model.outputs
    ]
    show_table(console, ["output", "kind", "type", "a row's shape", "labels or unit"], rows)
    rows = [
        [each.method, "yes" if each.allowed else "no", str(each.rows or ""), each.reason] for each in model.capabilities
    ]
    show_table(console, ["method", "allowed", "evaluations a row", "why not, or what to give"], rows, right=(2,))
    if layers:
        rows = [
            [
                each.name,
                each.type,
                _shape(each.shape),
                str(each.units),
                "yes" if each.cuttable else "",
                str(each.heads or ""),
                "yes" if each.branch else "",
            ]
            for each in model.layers
        ]
        show_table(console, ["layer", "type", "a row's shape", "units", "cuttable", "heads", "branch"], rows)
    elif model.layers:
        say(console, f"{len(model.layers)} layers; --layers lists them")


def show_methods(console: Console, methods: Sequence[Method]) -> None:
    """Print the methods, a line each."""
    rows = [[each.name, each.family, ", ".join(each.needs), _cost(each), each.summary] for each in methods]
    show_table(console, ["method", "family", "needs", "cost", "summary"], rows, whole=(0,))


def show_method(console: Console, method: Method) -> None:
    """Print a method and its parameters."""
    say(console, method.name, style="bold")
    say(console, method.summary)
    say(console, f"Source: {method.source}", style="dim")
    facts = {
        "family": method.family,
        "needs": ", ".join(method.needs),
        "promises": ", ".join(method.axioms) or "nothing",
        "baselines": ", ".join(method.baselines) or "none",
        "tolerance": "taken" if method.takes_tolerance else "not taken",
        "cost": _cost(method),
    }
    for name, fact in facts.items():
        say(console, f"{name}: {fact}")
    if method.parameters:
        rows = [[each.name, each.type, _default(each), _range(each), each.text] for each in method.parameters]
        show_table(console, ["parameter", "type", "default", "range", "text"], rows)


def show_datasets(console: Console, found: Sequence[Dataset]) -> None:
    """Print the data sets, a line each; those that the server cannot read with the reason."""
    masked = any(each.concepts is not None for each in found)
    rows = [
        [
            each.name,
            each.kind,
            "" if each.rows is None else str(each.rows),
            ", ".join(each.groups),
            *([_concepts(each)] if masked else []),
            each.state,
            each.reason or each.description,
        ]
        for each in found
    ]
    concepts = ["concepts"] if masked else []
    show_table(console, ["data set", "kind", "rows", "groups", *concepts, "state", "description"], rows)


def _concepts(dataset: Dataset) -> str:
    count = "" if dataset.concepts is None else str(dataset.concepts)
    return f"{count} ({', '.join(dataset.categories)})" if dataset.categories else count


def _show_classes(console: Console, title: str, classes: TopClasses) -> None:
    rows = [
        [each.name, f"{each.value:.4g}", "" if each.probability is None else f"{each.probability:.2%}"]
        for each in classes
    ]
    show_table(console, ["class", "value", "probability"], rows, title=title, right=(1, 2))


def _show_outcome(console: Console, outcome: ExplanationOutcome) -> None:
    if outcome.error is not None:
        say(console, f"{outcome.method}: {outcome.error}", style="red")
    for attribution in outcome.attributions:
        _show_attribution(console, attribution)


def _show_attribution(console: Console, attribution: Attribution) -> None:
    value = f"{attribution.output}[{attribution.target_name}] = {attribution.instance_output_value:.6g}"
    baseline = attribution.baseline_output_value
    compared = "" if baseline is None else f", {baseline:.6g} at the baseline ({attribution.receipt.baseline})"
    say(console, f"{attribution.method}: {value}{compared}", style="bold")
    _show_accuracy(console, attribution)
    for name, each in attribution.inputs.items():
        row = attribution.sources.get(name)
        if each.columns:
            ordered = sorted(each.by_column.items(), key=lambda item: -abs(item[1]))
            rows = [[column, _value(row, column), f"{score:+.4g}"] for column, score in ordered[:_MOST_COLUMNS]]
            left = len(ordered) - len(rows)
            title = f"{name}: the {len(rows)} strongest of {len(ordered)} columns" if left else name
            show_table(console, ["column", "value", "score"], rows, title=title, right=(1, 2))
        else:
            scores = each.scores.astype(np.float64)
            extremes = f"from {scores.min():.3g} to {scores.max():.3g}" if scores.size else "empty"
            say(console, f"{name}: {_shape(scores.shape)} scores, {extremes}, sum {scores.sum():.6g}")


def _show_accuracy(console: Console, attribution: Attribution) -> None:
    accuracy = attribution.accuracy
    if accuracy.partial:
        text = "cut short by the deadline: it rests on less than was asked for; allow more time for the rest"
        say(console, text, style="yellow")
    if accuracy.signed_gap is not None:
        share = "" if attribution.approximation_error is None else f" ({attribution.approximation_error:.3%})"
        absolute = "" if accuracy.absolute_gap is None else f", absolute gap {accuracy.absolute_gap:.4g}"
        say(console, f"signed gap {accuracy.signed_gap:+.4g}{share}{absolute}")
    if accuracy.tolerance_text:
        say(console, accuracy.tolerance_text)
    if accuracy.standard_error is not None:
        say(console, f"standard error at most {accuracy.standard_error:.4g}")
    for warning in accuracy.warnings:
        say(console, f"Note: {warning}", style="yellow")


def show_receipt(console: Console, receipt: Receipt) -> None:
    """Print what an answer is a function of, and the work that it took, in a line."""
    runtime, work = receipt.runtime, receipt.work
    key = f"{receipt.model.name} version {receipt.model.version}, digest {receipt.model.digest[:12]}"
    ran = f"{runtime.forward} on {runtime.device}, {runtime.precision}"
    rows = f"{work.rows_forward} rows forward, {work.rows_backward} backward"
    say(console, f"{key}; {ran}; {rows}", style="dim")


def _show_end(console: Console, receipt: Receipt, timing: Timing) -> None:
    show_receipt(console, receipt)
    seconds = f"{timing.queue_seconds:.3f} s queued, {timing.compute_seconds:.3f} s computing"
    say(console, f"{seconds}, {timing.total_seconds:.3f} s in all", style="dim")


def _show_columns(console: Console, model: Model) -> None:
    rows = [
        [column.name, ", ".join(column.categories) or "number", _interval(column.minimum, column.maximum), column.unit]
        for each in model.inputs
        for column in each.columns
    ]
    show_table(console, ["column", "values", "range in training", "unit"], rows)


def show_table(
    console: Console,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    right: tuple[int, ...] = (),
    whole: tuple[int, ...] = (),
) -> None:
    """Print rows under headers, below a title if there is one.

    Columns of the places in `right` are set right; what is in those of `whole` is never broken.
    """
    if title is not None:
        say(console, title)
    table = Table(box=None, pad_edge=False)
    for place, header in enumerate(headers):
        # Names are what the next command needs: they are never cut.
        table.add_column(header, justify="right" if place in right else "left", overflow="fold", no_wrap=place in whole)
    for row in rows:
        # As Text, so that brackets in a label are not taken for markup.
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    console.print()


def say(console: Console, line: str, *, style: str = "") -> None:
    """Print a line as it is, however long."""
    console.print(Text(line, style=style), soft_wrap=True)


def _shape(shape: Sequence[int]) -> str:
    return "(" + ", ".join("any" if length < 0 else str(length) for length in shape) + ")"


def _takes(each: InputSignature) -> str:
    if each.image is not None:
        return f"pictures, cropped to {each.image.crop_width} by {each.image.crop_height} pixels"
    return f"rows of {len(each.columns)} columns" if each.columns else ""


def _labels(labels: Sequence[str], unit: str) -> str:
    more = f", … ({len(labels)})" if len(labels) > _MOST_LABELS else ""
    return ", ".join(labels[:_MOST_LABELS]) + more if labels else unit


def _interval(minimum: float | None, maximum: float | None) -> str:
    if minimum is None and maximum is None:
        return ""
    least = "" if minimum is None else f"{minimum:g}"
    most = "" if maximum is None else f"{maximum:g}"
    return f"{least} to {most}".strip()


def _cost(method: Method) -> str:
    """Say what the number of evaluations goes by."""
    if method.rows_parameter:
        return f"in proportion to {method.rows_parameter}"
    return {"ablate": "by the rows and the sites", "dissect": "by the rows and the layers"}.get(
        method.rpc, "by the model and the input"
    )


def _default(each: Parameter) -> str:
    return "" if each.default is None else str(plain(each.default))


def _range(each: Parameter) -> str:
    return ", ".join(each.choices) or _interval(each.minimum, each.maximum)


def _value(row: Any, column: str) -> str:
    if not isinstance(row, dict) or column not in row:
        return ""
    value = row[column]
    return value if isinstance(value, str) else f"{value:.6g}"
