"""Methods name their verb, and are found by it."""

import dataclasses

import numpy as np
import pellucid_server.engine.methods
import pytest
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.probes import ProbeLayer, ProbeQuestion
from pellucid_server.engine.asking.registry import Cost, method
from pellucid_server.engine.asking.sites import SiteLayer
from pellucid_server.engine.asking.verbs import ABLATE, ATTRIBUTE, DISSECT, SiteQuestion
from pellucid_server.errors import InvalidRequestError, NotFoundError
from pellucid_server.vocabulary.findings import Axis, Findings, NamedArray

registry.discover(pellucid_server.engine.methods)


@dataclasses.dataclass(frozen=True)
class Params:
    """No parameters."""


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Install a method of each verb beside those that there are, for one test."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @method("fake-dissection", Params, verb=DISSECT, family="concepts", source="a paper", cost=lambda *_: Cost(1))
    def dissection(model, question, params):
        """Name what units see."""
        yield Findings(
            {
                "means": NamedArray(
                    np.zeros(len(question.layers)), (Axis("layer", tuple(each.name for each in question.layers)),)
                )
            }
        )

    @method("zero-units", Params, verb=ABLATE, family="ablation", source="a paper", cost=lambda *_: Cost(1))
    def ablation(model, question, params):
        """Set units to zero."""
        yield Findings({layer: NamedArray(question.rows["x"], (Axis("row"), Axis("x"))) for layer in question.layers})


def test_a_method_of_another_verb_is_refused_with_what_the_verb_has():
    with pytest.raises(InvalidRequestError) as caught:
        registry.lookup("fake-dissection")

    assert caught.value.message == (
        "explanation.method 'fake-dissection' is a method of Dissect; Attribute has: feature-ablation, "
        "input-x-gradient, integrated-gradients, kernel-shap, occlusion, saliency, smoothgrad."
    )
    assert caught.value.metadata["field"] == "explanation.method"


def test_an_attribution_is_no_method_of_dissect():
    with pytest.raises(
        InvalidRequestError,
        match=r"'saliency' is a method of Attribute; Dissect has: activation-maximization, activations",
    ):
        registry.lookup("saliency", DISSECT, field="method")


@pytest.mark.parametrize(
    ("verb", "name"), [(ATTRIBUTE, "saliency"), (ABLATE, "zero-units"), (DISSECT, "fake-dissection")]
)
def test_a_method_is_found_by_its_verb(verb, name):
    found = registry.lookup(name, verb)

    assert (found.name, found.verb, found.info().rpc) == (name, verb, verb.name)


def test_an_unknown_name_is_compared_with_the_verbs_own_methods():
    with pytest.raises(
        NotFoundError, match=r"No method 'zero-unit'; installed: ablation, .*, zero-units\. Did you mean 'zero-units'"
    ):
        registry.lookup("zero-unit", ABLATE)
    with pytest.raises(NotFoundError, match=r"installed: .*fake-dissection"):
        registry.lookup("zero-unit", DISSECT)


def test_an_empty_name_names_the_verbs_methods():
    with pytest.raises(InvalidRequestError, match=r"method is empty; set it to one of: ablation, .*, zero-units\."):
        registry.lookup("", ABLATE, field="method")


def test_methods_are_listed_by_verb_then_name():
    listed = [(entry.verb.name, entry.name) for entry in registry.methods()]

    assert listed == sorted(listed)
    assert list(dict.fromkeys(verb for verb, _ in listed)) == ["ablate", "attribute", "dissect"]
    assert "fake-dissection" in [name for verb, name in listed if verb == "dissect"]


def test_a_method_of_a_stream_answers_its_verbs_question_in_findings():
    rows = np.ones((2, 3), np.float32)
    layers = {name: SiteLayer(name, (4,)) for name in ("a", "b")}
    question = SiteQuestion({"x": rows}, (), np.zeros((2, 1)), layers, ())
    ablated = registry.lookup("zero-units", ABLATE).function(None, question, None)
    dissected = registry.lookup("fake-dissection", DISSECT).function(
        None, ProbeQuestion(tuple(ProbeLayer(SiteLayer(name, (4,)), np.arange(4)) for name in ("a", "b"))), None
    )

    assert [sorted(part.arrays) for part in ablated] == [["a", "b"]]
    assert [part.arrays["means"].axes[0].labels for part in dissected] == [("a", "b")]
