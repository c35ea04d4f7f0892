"""The page of a dissection, read without a browser: whole, by itself, and without a way in for foreign markup."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from client.dissected import (
    activations_answer,
    answer,
    dictionary_answer,
    picture,
    projection_answer,
    table,
    tuning_answer,
    visualised_answer,
)
from pellucid.findings import Axis, NamedArray, Picture
from pellucid.report_data import report_data
from pellucid.reports import report_page

EVIL = "</script><script>alert(1)</script>&<img src=x onerror=alert(2)>\"'{{title}}"


class Page(HTMLParser):
    """What a browser would read of a page."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.contents = [], [], {}
        self.said = []
        self._within = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("meta", "br", "img", "link", "input"):
            self._within.append((tag, dict(attrs).get("type", "")))

    def handle_endtag(self, tag):
        while self._within and self._within.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tag, kind = self._within[-1] if self._within else ("", "")
        if tag in ("script", "style"):
            self.contents[tag, kind] = self.contents.get((tag, kind), "") + data
        elif data.strip():
            self.said.append(data.strip())

    @property
    def data(self):
        return json.loads(self.contents["script", "application/json"])

    @property
    def policy(self):
        return next(
            value for tag, name, value in self.attributes if tag == "meta" and name == "content" and "src" in value
        )


def sha(text):
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def test_a_page_says_what_it_is_of():
    page = Page(report_page(dictionary_answer(warnings=["Some pictures were left out."])))

    said = " ".join(page.said)
    assert "photos version 3" in said
    assert "network-dissection" in said
    assert "generated-concepts" in said
    assert "quantile 0.995" in said
    assert "Some pictures were left out." in said
    assert ("dd", "title", "ab" * 32) in page.attributes
    assert page.data["tables"]["dictionary"]["rows"] == 40


@pytest.mark.parametrize(
    "found",
    [
        dictionary_answer(),
        activations_answer(),
        tuning_answer(),
        visualised_answer(),
        projection_answer(),
        answer("new"),
    ],
    ids=lambda found: found.method,
)
def test_a_page_asks_for_nothing_outside_itself(found):
    page = Page(report_page(found))

    assert not [each for each in page.attributes if each[1] in ("src", "href", "action") and each[2] != "#main"]
    assert "link" not in page.tags
    assert "default-src 'none'" in page.policy
    assert "@import" not in page.contents["style", ""]
    assert "url(" not in page.contents["style", ""].replace("url(#hatch)", "")


def test_the_policy_names_the_pages_own_script_and_style():
    page = Page(report_page(dictionary_answer()))

    assert f"script-src {sha(page.contents['script', ''])};" in page.policy
    assert f"style-src {sha(page.contents['style', ''])};" in page.policy


def test_names_from_files_are_texts_and_never_markup():
    hostile = dictionary_answer(
        units=8,
        layers=(EVIL,),
        rename={"red": EVIL},
        warnings=[EVIL],
        model=EVIL,
        draw=lambda name, colour: picture(name, text=EVIL),
    )
    hostile = replace(hostile, method=EVIL)

    page, plain = (
        Page(report_page(hostile)),
        Page(report_page(dictionary_answer(units=8, layers=("a",), warnings=["b"]))),
    )

    assert page.tags == plain.tags
    assert not [each for each in page.attributes if each[1].startswith("on")]
    assert page.contents["script", ""] == plain.contents["script", ""]
    assert f"{EVIL} version 3" in " ".join(page.said)
    assert EVIL in page.data["tables"]["dictionary"]["columns"][0]["values"]
    assert EVIL in page.data["tables"]["concepts"]["columns"][0]["values"]


def test_the_page_states_its_size():
    small = report_page(activations_answer())
    large = report_page(answer("new", pictures=[replace(picture("x"), data=b"x" * 1_500_000)]))

    assert f"This page has {len(small.encode()) / 1000:.0f} kB" in small
    assert f"This page has {len(large.encode()) / 1e6:.1f} MB" in large


def test_an_estimate_so_far_says_so_and_has_no_receipt():
    page = report_page(dictionary_answer(last=False))

    assert "An estimate so far: 25% of the work is done." in page
    assert "<summary>Receipt" not in page


def test_the_receipt_is_in_the_page_with_the_record():
    page = Page(report_page(dictionary_answer(layers=("conv1",))))

    receipt = json.loads(next(each for each in page.said if each.startswith("{")))
    assert receipt["receipt"]["model"]["name"] == "photos"
    assert receipt["record"]["layers"] == ["conv1"]


def test_numbers_that_are_missing_are_none_and_the_rest_have_six_digits():
    rows = table("t", x=[1 / 3, None, 1e-12], n=[3, None, 4], flag=[True, None, False], word=["a", None, "c"])
    array = NamedArray("a", np.array([[np.nan, 2 / 3]]), (Axis("row"), Axis("column", ("x", "y"))), missing=True)

    found = report_data(answer("new", tables=[rows], arrays=[array]))

    assert [each["values"] for each in found["tables"]["t"]["columns"]] == [
        [0.333333, None, 1e-12],
        [3, None, 4],
        [True, None, False],
        ["a", None, "c"],
    ]
    assert [each["kind"] for each in found["tables"]["t"]["columns"]] == ["number", "number", "flag", "text"]
    assert found["arrays"]["a"]["values"] == [None, 0.666667]


def test_arrays_that_are_too_large_are_named_without_values():
    large = NamedArray("a", np.zeros((500, 401)), (Axis("row"), Axis("column")))

    assert report_data(answer("new", arrays=[large]))["arrays"]["a"]["values"] is None


def test_only_pictures_of_known_types_are_shown():
    drawing = Picture("x", b"<svg onload='alert(1)'/>", "image/svg+xml", 1, 1, "A drawing.")

    found = report_data(answer("new", pictures=[drawing, picture("y")]))["pictures"]

    assert found["x"]["address"] == ""
    assert found["y"]["address"].startswith("data:image/png;base64,")


def test_a_unit_has_its_best_concepts_in_place_of_the_whole_array():
    iou = np.array([[0.1, 0.3, np.nan, 0.2], [0.0, 0.0, 0.0, 0.5]])
    axes = (Axis("unit", coordinates=np.array([4, 9])), Axis("concept", ("red", "dots", "dog", "cat")))
    found = answer(
        "network-dissection",
        arrays=[NamedArray("a/b/iou", iou, axes, missing=True)],
        tables=[table("dictionary", layer=["a/b", "a/b"], unit=[4, 9])],
    )

    data = report_data(found)

    assert data["best"] == {"a/b": {"4": [["dots", 0.3], ["cat", 0.2], ["red", 0.1]], "9": [["cat", 0.5]]}}
    assert data["arrays"] == {}


def test_a_page_is_written_to_a_file_and_its_size_returned(tmp_path):
    size = tuning_answer().to_html(tmp_path / "page.html")

    assert (tmp_path / "page.html").stat().st_size == size
    assert re.match(r"<!DOCTYPE html>", (tmp_path / "page.html").read_text("utf-8"))


def test_changes_and_what_is_not_allowed_are_in_the_page_where_they_are_asked_for(tmp_path):
    before, after = dictionary_answer(12, seed=1).dictionary, dictionary_answer(12, seed=2)
    after.to_html(tmp_path / "page.html", before=before, allowed=["red"])

    data = Page((tmp_path / "page.html").read_text("utf-8")).data

    assert data["comparison"] == json.loads(json.dumps(before.compare(after.dictionary).to_dict()))
    assert [each["unit"] for each in data["audit"]] == [each.unit for each in after.dictionary.audit(["red"])]
    assert "comparison" not in report_data(after)
    assert "audit" not in report_data(after)


@pytest.mark.parametrize("more", [{"before": dictionary_answer(2).dictionary}, {"allowed": ["red"]}])
def test_an_answer_without_a_dictionary_is_not_compared(tmp_path, more):
    with pytest.raises(LookupError, match="has no table 'dictionary'"):
        tuning_answer().to_html(tmp_path / "page.html", **more)
