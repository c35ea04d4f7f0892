"""What requests of `Ablate` are refused for before a model is asked."""

import time

import numpy as np
import pytest
from pellucid.tensors import to_tensor
from pellucid.v1 import ablation_pb2, explanation_pb2, input_pb2
from pellucid.v1.explanation_service_pb2 import AblateRequest
from pellucid_server.errors import InvalidRequestError
from pellucid_server.rpc.ablation import ablate_request
from pellucid_server.settings.sections import LimitsConfig
from pellucid_server.vocabulary.requests import MOST_SITES

target, outcome, wanted = explanation_pb2.Target, explanation_pb2.Outcome, ablation_pb2.Wanted
KIND = ablation_pb2.InterventionKind
LIMITS = LimitsConfig()
LARGEST = float(np.finfo(np.float32).max)


def asked(*interventions, **fields):
    return AblateRequest(
        model=explanation_pb2.ModelSpec(name="m"),
        inputs={"x": input_pb2.Input(tensor=to_tensor(np.zeros((1, 2), np.float32)))},
        method="ablation",
        interventions=interventions,
        **fields,
    )


def change(*sites, kind="ZERO", **fields):
    number = KIND.Value(f"INTERVENTION_KIND_{kind}")
    return ablation_pb2.Intervention(sites=sites or [site()], kind=number, **fields)


def site(layer="a", **fields):
    return ablation_pb2.Site(layer=layer, **fields)


def rule(column="c", **fields):
    return ablation_pb2.ColumnRule(column=column, **fields)


def refused(request):
    with pytest.raises(InvalidRequestError) as caught:
        ablate_request(request, LIMITS)
    assert caught.value.message.startswith(caught.value.metadata["field"])
    assert len(caught.value.message) < 300
    return caught.value.metadata["field"], caught.value.message


def half(name):
    return site(**{name: range(MOST_SITES // 2)})


@pytest.mark.parametrize(
    ("interventions", "field"),
    [
        ([change(*[site()] * (MOST_SITES // 2)), change(*[site()] * (MOST_SITES // 2 + 1))], "interventions[1].sites"),
        ([change(half("units"), half("units"), site(units=[0]))], "interventions[0].sites[2].units"),
        (
            [change(half("positions")), change(half("positions"), half("positions"))],
            "interventions[1].sites[1].positions",
        ),
    ],
    ids=["sites", "units", "positions"],
)
def test_what_a_request_names_is_counted_over_all_of_it(interventions, field):
    found, message = refused(asked(*interventions))

    assert found == field
    assert f"at most {MOST_SITES} are taken" in message


def test_as_many_sites_as_may_be_named_are_read():
    sites = [site(units=[number], positions=[number]) for number in range(MOST_SITES)]

    (found,) = ablate_request(asked(change(*sites)), LIMITS).interventions

    assert len(found.sites) == MOST_SITES
    assert found.sites[-1].units == found.sites[-1].positions == (MOST_SITES - 1,)


def test_a_request_of_far_too_many_indices_is_refused_before_they_are_copied():
    request = asked(*[change(site(units=range(MOST_SITES)))] * 256)

    started = time.process_time()
    refused(request)

    # To copy all 33 million takes some 2 s.
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("request_", "field", "what"),
    [
        (asked(change(site("a" * 513))), "interventions[0].sites[0].layer", "has 513 characters; at most 512"),
        (asked(change(site("*a" * 17))), "interventions[0].sites[0].layer", "with 17 signs *; a pattern has at most"),
        (asked(columns=[rule("a" * 513)]), "columns[0].column", "has 513 characters; at most 512"),
        (asked(columns=[rule(categories=["a" * 513])]), "columns[0].categories", "has 513 characters; at most 512"),
        (asked(dataset="a" * 513), "dataset", "has 513 characters; at most 512"),
        (asked(target=target(output="a" * 513)), "target.output", "has 513 characters; at most 512"),
        (asked(target=target(outcome=outcome(label="a" * 513))), "target.outcome.label", "has 513 characters; at most"),
        (asked(target=target(contrast=outcome(index=[0] * 65))), "target.contrast.index", "has 65 entries; at most 64"),
        (asked(wanted=wanted(outcome=outcome(index=[0] * 65))), "wanted.outcome.index", "has 65 entries; at most 64"),
        (asked(columns=[rule(categories=["b", "a", "b"])]), "columns[0].categories", "names 'b' twice"),
        (asked(columns=[rule(categories=map(str, range(1025)))]), "columns[0].categories", "has 1025 entries; at most"),
        (asked(columns=[rule(f"c{number}") for number in range(4097)]), "columns", "has 4097 entries; at most 4096"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)  # fmt: skip
def test_names_rules_and_categories_are_bounded(request_, field, what):
    found, message = refused(request_)

    assert found == field
    assert what in message


def test_names_rules_and_categories_may_reach_their_bounds():
    rules = [rule(f"c{number}", categories=["a"]) for number in range(4095)]
    rules.append(rule("c" * 512, categories=[f"{number:0512}" for number in range(1024)]))

    found = ablate_request(asked(change(site("*a" * 16)), columns=rules), LIMITS)

    assert len(found.columns) == 4096
    assert len(found.columns[-1].categories) == 1024


@pytest.mark.parametrize(
    ("kind", "sign"),
    [("CONSTANT", 1), ("CONSTANT", -1), ("SCALE", 1), ("SCALE", -1), ("NOISE", 1), ("STEER", 1), ("STEER", -1)],
)
def test_a_value_that_is_infinite_in_a_network_is_refused(kind, sign):
    fields = {"vector": to_tensor(np.ones(2))} if kind == "STEER" else {}

    field, message = refused(asked(change(kind=kind, value=sign * 1e308, **fields)))

    assert field == "interventions[0].value"
    assert "1e+308" in message
    (read,) = ablate_request(asked(change(kind=kind, value=sign * LARGEST, **fields)), LIMITS).interventions
    assert np.isfinite(np.float32(read.value))


@pytest.mark.parametrize("kind", ["CONSTANT", "STEER"])
@pytest.mark.parametrize("element", [1e39, -1e39])
def test_a_vector_that_is_infinite_in_a_network_is_refused(kind, element):
    field, message = refused(asked(change(kind=kind, vector=to_tensor(np.array([0.0, element])))))

    assert field == "interventions[0].vector"
    assert "1e+39" in message


@pytest.mark.parametrize("value", [1e20, -1e20])
def test_a_coefficient_and_a_vector_whose_product_is_infinite_are_refused(value):
    field, message = refused(asked(change(kind="STEER", value=value, vector=to_tensor(np.array([0.0, -1e20])))))

    assert field == "interventions[0].value"
    assert "1e+20" in message


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_vectors_of_whole_numbers_are_taken(dtype):
    vector = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)

    (found,) = ablate_request(asked(change(kind="CONSTANT", vector=to_tensor(vector))), LIMITS).interventions

    np.testing.assert_array_equal(found.vector, vector)
