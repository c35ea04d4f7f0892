"""Which of a model's inputs only say which parts of the others count: masks, which baselines leave alone."""

from collections.abc import Mapping
from dataclasses import replace

from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.models.files.manifest import Manifest
from pellucid_server.vocabulary.descriptions import InputInfo

_NAME_ENDS_IN = "mask"


def with_masks(
    features: Mapping[str, Feature], infos: Mapping[str, InputInfo], manifest: Manifest
) -> dict[str, Feature]:
    """Mark the masks among the inputs.

    An input that the manifest gives a `role` has that. Of the others, inputs of flags are masks, and those of
    whole numbers whose name ends in "mask". If that leaves nothing to explain, nothing is a mask.
    """
    roles = {entry.name: entry.role for entry in manifest.inputs}
    masks = {name for name in features if _is_mask(roles.get(name, ""), name, infos[name].data_type)}
    if masks == set(features):
        return dict(features)
    return {name: replace(feature, mask=name in masks) for name, feature in features.items()}


def _is_mask(role: str, name: str, data_type: str) -> bool:
    if role:
        return role == "mask"
    whole = data_type.startswith(("int", "uint"))
    return data_type == "bool" or (whole and name.lower().endswith(_NAME_ENDS_IN))
