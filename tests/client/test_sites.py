"""Sites and interventions as callers write them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pellucid import Constant, Mean, Noise, Patch, Resample, Scale, Site, Steer, Zero
from pellucid.errors import InvalidRequestError
from pellucid.interventions import intervention_message, read_intervention
from pellucid.sites import read_site, read_sites
from pellucid.tensors import from_tensor

INDICES = st.none() | st.lists(st.integers(0, 99) | st.integers(0, 2**63 - 1), min_size=1, max_size=12, unique=True)
LAYERS = st.from_regex(r"[a-z_*?][a-z0-9_.#*?/-]{0,12}(:[0-9]|[0-9])?", fullmatch=True)
SITES = st.builds(
    Site,
    layer=LAYERS,
    units=INDICES,
    positions=INDICES,
    part=st.sampled_from([None, "heads", "branch"]),
    each=st.sampled_from([None, "unit", "position", "element"]),
)


@given(SITES)
def test_the_text_of_a_site_is_read_as_the_same_site(site):
    assert Site.parse(str(site)) == site


@given(SITES)
def test_the_message_of_a_site_is_read_as_the_same_site(site):
    assert read_site(site.message) == site


@given(st.text(max_size=20))
def test_any_text_is_a_site_or_an_invalid_request(text):
    try:
        site = Site.parse(text)
    except InvalidRequestError:
        return
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("layer4", Site("layer4")),
        ("layer4[3]", Site("layer4", units=3)),
        ("layer4[3,5-9]", Site("layer4", units=[3, 5, 6, 7, 8, 9])),
        ("layer4[3, 5-6]", Site("layer4", units=[3, 5, 6])),
        ("layer4@7", Site("layer4", positions=7)),
        ("layer4[0]@0-2", Site("layer4", units=0, positions=range(3))),
        ("attn:heads[2]", Site("attn", units=[2], part="heads")),
        ("block.1:branch", Site("block.1", part="branch")),
        ("body.conv#2[*]", Site("body.conv#2", each="unit")),
        ("tokens@*", Site("tokens", each="position")),
        ("conv[*]@*", Site("conv", each="element")),
        ("conv[*3,5]", Site("conv", units=[3, 5], each="unit")),
        ("conv[*]@3", Site("conv", positions=[3], each="unit")),
        ("conv[3]@*", Site("conv", units=[3], each="position")),
        ("layer*", Site("layer*")),
        ("layer*[*]", Site("layer*", each="unit")),
        ("/model/MatMul:0[1]", Site("/model/MatMul:0", units=[1])),
        ("two words", Site("two words")),
    ],
)
def test_texts_mean_these_sites(text, site):
    assert Site.parse(text) == site


@pytest.mark.parametrize("indices", [[3, 5, 6, 7], (3, 5, 6, 7), np.array([3, 5, 6, 7]), [np.int32(3), 5, 6, 7]])
def test_indices_are_lists_tuples_arrays_or_ranges(indices):
    assert str(Site("conv", units=indices)) == "conv[3,5-7]"


def test_the_order_of_indices_is_kept():
    assert str(Site("conv", units=[7, 5, 6, 2])) == "conv[7,5-6,2]"


def test_sites_are_shown_by_their_text():
    assert repr(Site("conv", units=range(512), each="unit")) == "<Site conv[*0-511]>"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("", "site is ''; a site is LAYER"),
        (" conv", "is ' conv'; a site is LAYER"),
        ("conv[", r"is 'conv\['; a site is LAYER"),
        ("conv]3[", "a site is LAYER"),
        ("conv[3]x", "a site is LAYER"),
        ("conv@3[1]", "a site is LAYER"),
        ("conv[a]", "a site is LAYER"),
        ("[3]", "a site is LAYER"),
        ("conv[]", "and '' is none of its units"),
        ("conv[3,]", "and '' is none of its units"),
        ("conv[-1]", "and '-1' is none of its units"),
        ("conv[9-3]", "and '9-3' is none of its units"),
        ("conv@1-2-3", "and '1-2-3' is none of its positions"),
        ("conv@", "and '' is none of its positions"),
        ("conv[99999999999999999999]", "is none of its units"),
        ("conv[9999999999999999999]", "is none of its units"),
        ("conv[0-65536]", "of more than 65,536 units; name fewer"),
        ("conv[0-9223372036854775807]", "of more than 65,536 units"),
        ("conv[3,3]", "units names 3 twice"),
        ("conv[1-3,2]", "units names 2 twice"),
        ("attn:head[2]", "of the part 'head'; the parts are heads and branch"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_what_is_no_site_is_refused_with_the_syntax(text, right):
    with pytest.raises(InvalidRequestError, match=right):
        Site.parse(text)


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({"layer": ""}, "layer is empty"),
        ({"layer": 3}, "layer is of type int"),
        ({"units": []}, "units is empty; leave it out for all of them"),
        ({"units": [-1]}, "units has -1; each must be an index"),
        ({"units": [True]}, "units has True"),
        ({"units": 1.5}, "units has 1.5"),
        ({"units": "3"}, "units has '3'"),
        ({"positions": [2**63]}, "positions has 9223372036854775808"),
        ({"part": "head"}, "part is 'head'; it must be one of 'heads', 'branch', or None"),
        ({"each": ["unit"]}, "each is of type list; it must be one of 'unit', 'position', 'element', or None"),
    ],
)
def test_a_site_of_wrong_values_is_refused(options, right):
    with pytest.raises(InvalidRequestError, match=right):
        Site(**({"layer": "conv"} | options))


@pytest.mark.parametrize("given", [3, None, {"layer": "conv"}, [3], [["conv"]]])
def test_what_is_neither_a_site_nor_a_text_is_refused(given):
    with pytest.raises(InvalidRequestError, match="it must be a Site"):
        read_sites(given, "sites")


EVERY = [
    Zero("conv[*]"),
    Mean(["conv", "fc"], reference="dataset", per_position=True),
    Resample("conv@3", reference="batch", draws=4),
    Noise("conv", deviation=0.5, draws=2),
    Constant("conv", 0),
    Constant("conv", [1.0, 2.0]),
    Scale("conv", -0.5),
    Steer("conv", [1.0, -1.0], coefficient=3),
    Patch("attn:heads[1]"),
]


@pytest.mark.parametrize("intervention", EVERY, ids=lambda each: type(each).__name__)
def test_an_intervention_is_read_back_as_it_was_sent(intervention):
    message = intervention_message(intervention, "it")

    found = read_intervention(message)

    assert type(found) is type(intervention)
    assert intervention_message(found, "it") == message


def test_what_is_left_out_of_an_intervention_is_left_to_the_server():
    kinds = {each.kind: intervention_message(each, "it") for each in (Zero("a"), Mean("a"), Resample("a"), Noise("a"))}

    assert not any(message.HasField("value") for kind, message in kinds.items() if kind != "noise")
    assert not any(message.draws or message.reference for message in kinds.values())
    assert kinds["noise"].value == 1


def test_a_constant_of_zero_is_sent_as_such():
    assert intervention_message(Constant("a", 0), "it").HasField("value")


@pytest.mark.parametrize("vector", [[1, 2], (1, 2), np.array([1, 2], np.float16), np.array([1, 2], ">i4")])
def test_vectors_are_sent_as_float64(vector):
    found = from_tensor(intervention_message(Steer("a", vector), "it").vector)

    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [1, 2])


@pytest.mark.parametrize(
    ("intervention", "right"),
    [
        (Constant("a", "x"), "it.value is 'x'; it must be a number"),
        (Constant("a", [[1], [1, 2]]), "it.value is no array"),
        (Constant("a", ["x"]), "it.value is of type list; give an array"),
        (Scale("a", None), "it.factor is None; it must be a number"),
        (Noise("a", deviation="big"), "it.deviation is 'big'"),
        (Noise("a", draws=0), r"it.draws is 0; it must be a whole number in \[1, 1024\]"),
        (Mean("a", per_position=1), "it.per_position is 1; it must be True or False"),
        (Steer("a", np.array(3.0)), "it.vector is of type ndarray; give an array"),
    ],
)
def test_an_intervention_of_wrong_values_is_refused(intervention, right):
    with pytest.raises(InvalidRequestError, match=right):
        intervention_message(intervention, "it")


@pytest.mark.parametrize("text", ["input:features[sex]", "input:x[*]", "input:x[a [b], c@7]"])
def test_a_column_of_a_table_is_a_site_whose_name_is_taken_as_it_is(text):
    site = Site.parse(text)

    assert (site.message.layer, site.message.units, str(site)) == (text, [], text)
