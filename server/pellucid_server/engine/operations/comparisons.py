"""What a row is compared with: the baseline that a request names, gives, or leaves to the default."""

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.registry import Background, Method, Need
from pellucid_server.engine.models.inputs.baselines import baseline_warnings, zero_text
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.engine.operations.rows import prepare
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.requests import MOST_BASELINE_ROWS, BaselineSpec, ExplanationSpec

SIGMA = 10.0
"""Standard deviation of a blur, in pixels, where the request has none."""

Baselines = tuple[str, Arrays]
"""A baseline's kind and its rows, (baselines, *features) each."""


def read_baseline(
    context: RequestContext, model: LoadedModel, method: Method, spec: ExplanationSpec, field: str
) -> Arrays | None:
    """Check the baseline's kind against the method; return the caller's own rows, (baselines, *features) each.

    Raises
    ------
    InvalidRequestError
        The method takes no such baseline, or not so many rows, or the rows are wrong.
    UnsupportedError
        The request names no baseline, and the model has no default.
    """
    kind, where = spec.baseline.kind, f"{field}.baseline"
    if method.baselines is Background.NONE and kind:
        raise InvalidRequestError(f"{method.name} compares with no baseline; leave {where} out.", field=where)
    if kind == "background" and method.baselines is not Background.MANY:
        where = f"{where}.kind"
        text = (
            f"{method.name} compares with one baseline, not with a background; for its mean, set {where} to MEAN, for "
            "the row that is closest to all others to MEDOID."
        )
        raise InvalidRequestError(text, field=where)
    if not kind and (lacking := model.lacking(method)):
        raise UnsupportedError(f"{method.name} has nothing to compare with. {lacking}", subject="background")
    if kind != "given":
        return None
    prepared = prepare(context, model, spec.baseline.inputs, field=f"{where}.inputs", most=MOST_BASELINE_ROWS)
    if prepared.count != 1 and method.baselines is not Background.MANY:
        text = (
            f"{where}.inputs has {prepared.count} rows, and {method.name} compares with one; give one row, or use "
            "kernel-shap, which averages over all of them."
        )
        raise InvalidRequestError(text, field=f"{where}.inputs")
    return prepared.arrays


def make_baseline(
    model: LoadedModel, method: Method, spec: BaselineSpec, given: Arrays | None, row: Arrays, field: str
) -> Baselines:
    """Make the baseline of a row; `field` is the explanation's path."""
    if method.baselines is Background.NONE:
        return "", {}
    if given is not None:
        for name, rows in given.items():
            if rows.shape[1:] != row[name].shape:
                where = f'{field}.baseline.inputs["{name}"]'
                text = f"{where} has a row of shape {list(rows.shape[1:])}; the request's has {list(row[name].shape)}."
                raise InvalidRequestError(text, field=where)
        return "given", given
    many = method.baselines is Background.MANY
    return model.baseline(spec.kind, row, many=many, sigma=blur_sigma(spec), field=f"{field}.baseline")


def blur_sigma(spec: BaselineSpec) -> float:
    """Return the standard deviation of a blur, in pixels."""
    return spec.blur_sigma or SIGMA


def comparison_warnings(model: LoadedModel, method: Method, kind: str) -> tuple[str, ...]:
    """Say where the baseline of `kind`, or the zero that a method implies, means nothing."""
    if method.baselines is not Background.NONE:
        # Gradient methods say themselves what they hold of inputs that have no gradient.
        said = Need.GRADIENTS in method.needs
        shown = {name: each for name, each in model.features.items() if not said or each.differentiable}
        return baseline_warnings(kind, shown)
    if not method.implies_zero:
        return ()
    return tuple(
        f"{method.name} compares with zero. {zero_text(name, feature)}; use a method that takes a baseline."
        for name, feature in model.features.items()
        if feature.uncentred
    )
