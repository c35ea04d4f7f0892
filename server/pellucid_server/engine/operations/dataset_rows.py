"""Rows of data sets as operations take them: read on a thread beside the hub."""

from collections.abc import Callable
from typing import Any

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.context import RequestContext


def dataset_sample(context: RequestContext, model: LoadedModel, name: str, seed: int) -> Arrays:
    """Return some rows of a data set that means and draws can come from, (rows, *features) each.

    Raises
    ------
    PellucidError
        There is no such data set, it cannot be read or does not fit the model, or its files changed meanwhile.
    """
    return dataset_sample_and_digest(context, model, name, seed)[0]


def dataset_sample_and_digest(context: RequestContext, model: LoadedModel, name: str, seed: int) -> tuple[Arrays, str]:
    """Return rows as `dataset_sample` does, and the digest of the files that they were read from.

    Raises
    ------
    PellucidError
        There is no such data set, it cannot be read or does not fit the model, or its files changed meanwhile.
    """
    datasets, run = context.models.datasets, offloaded(context)
    found = datasets.find(name)
    with found.unchanged(run):
        digest = datasets.digest(found, run)
        return found.sample(model, seed=seed, run=run), digest


def dataset_digest(context: RequestContext, name: str) -> str:
    """Return the digest of a data set's files as they are now; empty for no name.

    Raises
    ------
    PellucidError
        There is no such data set, it cannot be read, or its files changed meanwhile.
    """
    if not name:
        return ""
    datasets = context.models.datasets
    return datasets.digest(datasets.find(name), offloaded(context))


def offloaded(context: RequestContext) -> "Callable[[Callable[[], Any]], Any]":
    """Return what runs steps that take long beside the hub, as long as the request has time."""

    def run(step: Callable[[], Any]) -> Any:
        context.request.check()
        return context.services.hub.offload(step)

    return run
