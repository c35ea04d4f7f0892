"""The semantic dictionary: searched both ways, counted, compared with another, held against a list."""

import json
from dataclasses import replace

import pytest
from client.dissected import answer, dictionary_answer, table
from pellucid.dictionaries import Change, Dictionary, Entry
from pellucid.errors import InvalidRequestError


def entry(layer, unit, concept=None, iou=0.0, category="color", *, detector=None, **more):
    return Entry(
        layer,
        unit,
        concept,
        category if concept else None,
        iou,
        detector=detector is not False and bool(concept),
        **more,
    )


SMALL = Dictionary(
    (
        entry("a", 0, "red", 0.2, runner_up="Dark red"),
        entry("a", 1, "dots", 0.3, "texture"),
        entry("a", 2, "red", 0.4),
        entry("a", 3, dead=True),
        entry("b", 0, "wheel", 0.1, "part"),
        entry("b", 1, "dog", 0.04, "object", detector=False),
    )
)


def units(entries):
    return [(each.layer, each.unit) for each in entries]


def test_the_table_is_read_with_none_for_what_it_lacks():
    rows = table(
        "dictionary",
        layer=["a", "a"],
        unit=[0, 7],
        concept=["red", None],
        iou=[0.25, None],
        dead=[False, True],
        detector=[True, False],
        shade=["x", "y"],
    )

    first, second = answer("network-dissection", tables=[rows]).dictionary

    assert first == Entry("a", 0, "red", iou=0.25, dead=False, detector=True)
    assert second == Entry("a", 7, dead=True, detector=False)
    assert (first.detected, second.detected) == ("red", None)


def test_an_empty_text_is_no_concept():
    rows = table("dictionary", layer=["a"], unit=[0], concept=[""], detector=[True])

    (found,) = answer("network-dissection", tables=[rows]).dictionary

    assert (found.concept, found.detected) == (None, None)


def test_a_table_without_units_is_no_dictionary():
    rows = table("dictionary", layer=["a"])

    with pytest.raises(LookupError, match="The table 'dictionary' has no 'unit' in a row"):
        _ = answer("network-dissection", tables=[rows]).dictionary


def test_units_are_searched_by_concept_runner_up_and_category_the_best_first():
    assert units(SMALL.search("RED")) == [("a", 2), ("a", 0)]
    assert units(SMALL.search("dark")) == [("a", 0)]
    assert units(SMALL.search("object")) == [("b", 1)]
    assert SMALL.search("nothing") == ()


def test_a_concept_has_its_units_and_a_unit_its_concept():
    assert units(SMALL.units_of("red")) == [("a", 2), ("a", 0)]
    assert SMALL.units_of("red", layer="b") == ()
    # It is nearest to a dog, but no detector of it.
    assert SMALL.units_of("dog") == ()
    assert SMALL.concept_of("b", 1).concept == "dog"
    assert SMALL.concept_of("a", 2).iou == 0.4


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: SMALL.concept_of("a", 9), "No unit 9 of 'a' was looked at"),
        (lambda: SMALL.concept_of("c", 0), "No layer 'c' in the dictionary; its layers: a, b"),
        (lambda: SMALL.units_of("red", layer="c"), "No layer 'c'"),
        (lambda: SMALL.layer("c"), "No layer 'c'"),
    ],
)
def test_what_there_is_not_is_named(ask, words):
    with pytest.raises(LookupError, match=words):
        ask()


def test_detectors_are_counted_by_category():
    assert SMALL.counts() == {"color": 2, "part": 1, "texture": 1}
    assert SMALL.distinct() == {"color": 1, "part": 1, "texture": 1}
    assert SMALL.counts("b") == {"part": 1}
    assert units(SMALL.dead) == [("a", 3)]
    assert (len(SMALL), SMALL.layers, len(SMALL.detectors)) == (6, ("a", "b"), 4)


def test_another_version_is_compared_unit_by_unit():
    later = {
        ("a", 0): entry("a", 0, "blue", 0.3),
        ("a", 2): entry("a", 2, "red", 0.2),
        ("a", 3): entry("a", 3, "sky", 0.2),
        ("b", 1): entry("b", 1, "dog", 0.2, "object"),
    }
    other = Dictionary(
        tuple(later.get((each.layer, each.unit), each) for each in SMALL if each.unit != 1 or each.layer == "b")
    )

    found = SMALL.compare(other)

    assert found.changed == (
        Change("a", 0, "red", "blue"),
        Change("a", 3, None, "sky"),
        Change("b", 1, None, "dog"),
    )
    assert found.same == 2
    assert found.appeared == ("blue", "dog", "sky")
    # The unit of the dots is not in the other one.
    assert found.vanished == ("dots",)


def test_a_dictionary_compared_with_itself_is_the_same():
    found = SMALL.compare(SMALL)

    assert (found.changed, found.same, found.appeared, found.vanished) == ((), 4, (), ())


def test_two_layers_are_compared_by_their_concepts_alone():
    found = SMALL.layer("a").compare(SMALL.layer("b"))

    assert (found.changed, found.same) == ((), 0)
    assert (found.appeared, found.vanished) == (("wheel",), ("dots", "red"))


def test_detectors_of_what_is_not_allowed_are_found():
    assert units(SMALL.audit(["red", "dots", "wheel"])) == []
    assert units(SMALL.audit({"red"})) == [("a", 1), ("b", 0)]
    with pytest.raises(InvalidRequestError, match="allowed is 'red'; it must be a list of concepts"):
        SMALL.audit("red")


def test_entries_without_an_iou_come_last():
    nameless = Dictionary((replace(entry("a", 0, "red"), iou=None), entry("a", 1, "red", 0.0)))

    assert units(nameless.search("red")) == [("a", 1), ("a", 0)]


def test_counts_of_a_whole_answer_add_up_to_its_detectors():
    found = dictionary_answer(units=30).dictionary

    assert sum(found.counts().values()) == len(found.detectors)
    assert sum(found.counts("conv1").values()) + sum(found.counts("block.2").values()) == len(found.detectors)


def test_a_dictionary_is_read_back_from_json():
    found = dictionary_answer(units=9)

    again = Dictionary.of(json.loads(found.to_json())["tables"]["dictionary"])

    assert again == found.dictionary
    assert again.compare(found.dictionary).changed == ()


def test_entries_and_comparisons_are_plain_values():
    found = SMALL.compare(SMALL.layer("a"))

    assert json.loads(json.dumps(found.to_dict()))["vanished"] == ["wheel"]
    assert SMALL.concept_of("a", 1).to_dict()["concept"] == "dots"
