from dataclasses import dataclass

import pytest
from pellucid_server.errors import InvalidRequestError, NotFoundError
from pellucid_server.rpc.arrival import Call, CallerKeys, arrival

CALLER, PRIORITY = "x-pellucid-caller", "x-pellucid-priority"


@dataclass
class Context:
    """What gRPC knows of a call."""

    metadata: tuple = ()
    address: str = "ipv4:10.0.0.7:40312"
    remaining: float | None = None

    def invocation_metadata(self):
        return self.metadata

    def peer(self):
        return self.address

    def time_remaining(self):
        return self.remaining


def read(*metadata, address="ipv4:10.0.0.7:40312"):
    context = Context(metadata, address)
    call = arrival("Predict", context)
    CallerKeys().read(call, context)
    return call


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("ipv4:10.0.0.7:40312", "10.0.0.7"),
        ("ipv6:%5B::1%5D:40312", "::1"),
        ("ipv6:[fe80::1%25eth0]:7", "fe80::1%eth0"),
        ("unix:", ""),
        ("unix:/tmp/socket:1", ""),
        ("unknown", ""),
    ],
)
def test_a_call_that_names_no_caller_has_its_address_without_the_port(address, caller):
    assert read(address=address).caller == caller


def test_a_call_that_names_its_caller_has_no_other():
    assert read((CALLER, "shop 7"), (CALLER, "shop 8")).caller == "shop 7"


def test_an_empty_caller_is_none_named():
    assert read((CALLER, "")).caller == "10.0.0.7"


def test_a_callers_name_is_cut():
    assert read((CALLER, 200 * "x")).caller == 128 * "x"


@pytest.mark.parametrize("key", [CALLER, PRIORITY])
@pytest.mark.parametrize("value", ["a\nb", "shöp", b"shop"])
def test_a_value_that_no_log_can_hold_is_refused_by_its_key(key, value):
    with pytest.raises(InvalidRequestError) as caught:
        read((key, value))

    assert caught.value.metadata["field"] == f'metadata["{key}"]'
    assert repr(value) in caught.value.message


@pytest.mark.parametrize("unusable", ["", 65 * "x", "a\nb", "ü", b"bytes"])
def test_an_id_that_no_header_can_hold_is_replaced(unusable):
    call = arrival("Predict", Context((("x-request-id", unusable),)))

    assert len(call.request_id) == 16


def test_other_errors_keep_their_fields():
    error = NotFoundError("No.", resource_type="model")

    assert CallerKeys().named(error) is error


def test_time_that_is_left_runs_out():
    call = Call("Predict", "id", arrived=0.0, deadline_seconds=1.0)

    assert call.remaining_seconds < 0
    assert call.remaining_seconds == pytest.approx(1.0 - call.elapsed_seconds, abs=1.0)


@pytest.mark.parametrize(
    ("remaining", "seconds"), [(None, None), (20.0, 19.71), (9e7 * 3600, None)], ids=["none", "soon", "gRPC's furthest"]
)
def test_a_deadline_that_is_years_off_is_none(remaining, seconds):
    call = arrival("Predict", Context(remaining=remaining))

    assert call.deadline_seconds == (seconds and pytest.approx(seconds))


def test_without_a_deadline_no_time_is_left_or_wanting():
    assert arrival("Predict", Context()).remaining_seconds is None
