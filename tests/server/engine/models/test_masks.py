"""Which inputs are masks, by type, by name, and by what model.toml says."""

import pytest
from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.models.files.manifest import InputManifest, Manifest
from pellucid_server.engine.models.inputs.masks import with_masks
from pellucid_server.vocabulary.descriptions import InputInfo


def masks(types, **roles):
    features = {name: Feature("tensor", data_type.startswith("float")) for name, data_type in types.items()}
    infos = {name: InputInfo(name, "tensor", data_type, (3,)) for name, data_type in types.items()}
    manifest = Manifest(inputs=tuple(InputManifest(name, role=role) for name, role in roles.items()))
    return {name for name, feature in with_masks(features, infos, manifest).items() if feature.mask}


@pytest.mark.parametrize(
    ("types", "roles", "expected"),
    [
        ({"x": "float32", "flags": "bool"}, {}, {"flags"}),
        ({"input_ids": "int64", "attention_mask": "int64"}, {}, {"attention_mask"}),
        ({"x": "float32", "Mask": "uint8"}, {}, {"Mask"}),
        ({"x": "float32", "mask": "float32"}, {}, set()),
        ({"x": "float32", "masks": "int64"}, {}, set()),
        ({"x": "float32", "weights": "float32"}, {"weights": "mask"}, {"weights"}),
        ({"x": "float32", "flags": "bool"}, {"flags": "values"}, set()),
        ({"x": "float32", "mask": "int64"}, {"mask": "values", "x": ""}, set()),
        ({"flags": "bool"}, {}, set()),
        ({"flags": "bool", "others": "bool"}, {}, set()),
        ({"x": "float32"}, {"x": "mask"}, set()),
    ],
)
def test_flags_and_masks_by_name_are_masks_unless_that_leaves_nothing_or_the_role_says_otherwise(
    types, roles, expected
):
    assert masks(types, **roles) == expected
