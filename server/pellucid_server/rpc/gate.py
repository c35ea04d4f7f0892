"""Who asks, and whether they may: before a request is read, and again when it is known what it is about."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message
from pellucid.v1 import explanation_service_pb2, job_service_pb2

from pellucid_server.access.policy import ADMIN, DISSECT, EXPLAIN, PREDICT, Identity, Policy
from pellucid_server.access.quotas import Quotas
from pellucid_server.access.tokens import bearer, digest
from pellucid_server.errors import NotFoundError, PellucidError, PermissionDeniedError, UnauthenticatedError
from pellucid_server.rpc import catalogue
from pellucid_server.rpc.arrival import Call, Context, caller_of, host_of
from pellucid_server.vocabulary.messages import Hello

TOKEN_KEY = "authorization"  # noqa: S105 - where tokens are
"""Metadata key of the token, as `Bearer TOKEN`."""

_ANY = ""
_EXPLANATIONS, _MODELS, _JOBS, _OPEN = (
    "pellucid.v1.ExplanationService",
    "pellucid.v1.ModelService",
    "pellucid.v1.JobService",
    "inference.GRPCInferenceService",
)
_ROLES = {
    (_EXPLANATIONS, "Predict"): PREDICT,
    (_EXPLANATIONS, "Attribute"): EXPLAIN,
    (_EXPLANATIONS, "Ablate"): EXPLAIN,
    (_EXPLANATIONS, "Dissect"): DISSECT,
    (_MODELS, "ListModels"): _ANY,
    (_MODELS, "GetModel"): _ANY,
    (_MODELS, "ListMethods"): _ANY,
    (_MODELS, "ListDatasets"): DISSECT,
    # What is submitted needs the role of its own RPC, and a job is its owner's.
    (_JOBS, "SubmitJob"): _ANY,
    (_JOBS, "ListJobs"): _ANY,
    (_JOBS, "GetJob"): _ANY,
    (_JOBS, "WatchJob"): _ANY,
    (_JOBS, "CancelJob"): _ANY,
    (_JOBS, "DeleteJob"): _ANY,
    (_JOBS, "FetchJob"): _ANY,
    (_OPEN, "ServerLive"): _ANY,
    (_OPEN, "ServerReady"): _ANY,
    (_OPEN, "ServerMetadata"): _ANY,
    (_OPEN, "ModelReady"): _ANY,
    (_OPEN, "ModelMetadata"): _ANY,
    (_OPEN, "ModelInfer"): PREDICT,
}


def needed_role(service: str, rpc: str) -> str:
    """Return the role that an RPC needs, or nothing if every identity may call it; one that is not known is an admin's.

    `service` is the full name of its service.
    """
    return _ROLES.get((service, rpc), ADMIN)


class Gate:
    """Lets calls pass whose identity may make them; without a policy, all.

    Parameters
    ----------
    policy
        Returns the policy in force.
    """

    def __init__(self, policy: Callable[[], Policy | None] = lambda: None, quotas: Quotas | None = None) -> None:
        self._policy = policy
        self._quotas = quotas or Quotas()
        self._shown: dict[Identity, Hello] = {}
        self._shown_of: tuple[Policy | None, Hello | None] = (None, None)

    def admit(self, call: Call, context: Context, role: str) -> None:
        """Find out who calls, before the request is read, and take a place of theirs; `leave` gives it back.

        Raises
        ------
        UnauthenticatedError
            Nothing proves who calls, or what does is unknown.
        PermissionDeniedError
            The identity has the role for no model.
        QuotaExceededError
            It has used up what it may ask for.
        """
        policy = self._policy()
        if policy is None:
            return
        call.caller = host_of(context.peer())
        identity = identify(policy, context)
        call.identity, call.caller = identity, caller_of(identity, "", call.caller)
        if role and not identity.may(role):
            raise PermissionDeniedError(
                f"The identity {identity.name} does not have the role {role!r}, which {call.rpc} needs.",
                identity=identity.name,
                role=role,
            )
        self._quotas.enter(identity)
        call.admitted = True

    def check(self, call: Call, request: Message, role: str, hello: Hello | None) -> None:
        """Check whether the identity may do what a request asks, of the model and with the data that it names.

        Raises
        ------
        NotFoundError
            The identity sees no such model or data set, whether there is one or not.
        PermissionDeniedError
            It may know of the model, but has not the role for it.
        UnavailableError
            It is not known yet what is served.
        """
        identity = call.identity
        if identity is None or role == ADMIN:
            return
        request = asked_in(request)
        model = _model_named(request)
        if model is None:
            return
        shown = self.shown(catalogue.known(hello), call)
        assert shown is not None  # noqa: S101 - it is, if what it is made from is
        _check_model(model, shown)
        dataset = _dataset_named(request)
        held = identity.roles_for(model)
        for each in _roles(request, role, dataset):
            if each not in held:
                raise PermissionDeniedError(
                    f"The identity {identity.name} does not have the role {each!r} for the model {model!r}.",
                    identity=identity.name,
                    role=each,
                    model=model,
                )
        if dataset:
            _check_dataset(dataset, shown)

    def shown(self, hello: Hello | None, call: Call) -> Hello | None:
        """Return what the workers serve, as far as the call's identity may know of it."""
        identity = call.identity
        if hello is None or identity is None:
            return hello
        policy = self._policy()
        if self._shown_of[0] is not policy or self._shown_of[1] is not hello:
            self._shown, self._shown_of = {}, (policy, hello)
        if identity not in self._shown:
            self._shown[identity] = _shown(hello, identity)
        return self._shown[identity]

    def worded(self, error: PellucidError, call: Call, hello: Hello | None) -> PellucidError:
        """Return an error as the call's identity may read it: a worker that misses a name says which there are."""
        shown = self.shown(hello, call) if isinstance(error, NotFoundError) else None
        if call.identity is None or shown is None or ADMIN in call.identity.roles:
            return error
        name = error.metadata.get("resource_name", "")
        match error.metadata.get("resource_type"):
            case "model":
                return catalogue.no_model(name, shown)
            case "dataset":
                return _no_dataset(name, shown)
        return error

    def leave(self, call: Call) -> None:
        """Give a call's place back."""
        if call.admitted and call.identity is not None:
            call.admitted = False
            self._quotas.leave(call.identity)

    def charge(self, call: Call, rows: int) -> None:
        """Count the evaluation rows of a call."""
        if call.identity is not None:
            self._quotas.charge(call.identity, rows)

    def charge_owner(self, name: str, rows: int) -> None:
        """Count the evaluation rows of a job of an identity, if there still is one of that name."""
        policy = self._policy()
        if policy is None:
            return
        anonymous = policy.anonymous
        owner = anonymous if anonymous is not None and anonymous.name == name else policy.identities.get(name)
        if owner is not None:
            self._quotas.charge(owner, rows)

    def sees(self, context: Any) -> Callable[[str], bool]:
        """Return which models' names a caller may know of; one who proves nothing knows of what is everyone's."""
        policy = self._policy()
        if policy is None:
            return lambda name: True
        try:
            return identify(policy, context).sees
        except UnauthenticatedError:
            return lambda name: False

    def sees_in_public(self, _: Any) -> Callable[[str], bool]:
        """Return which models' names everyone may know of."""
        policy = self._policy()
        if policy is None:
            return lambda name: True
        return (lambda name: False) if policy.anonymous is None else policy.anonymous.sees


def identify(policy: Policy, context: Context) -> Identity:
    """Return who calls: the token's identity, else the certificate's, else the anonymous one.

    Raises
    ------
    UnauthenticatedError
        There is a token and it is unknown, or nothing proves who calls and there is no anonymous identity.
    """
    values = [value for key, value in context.invocation_metadata() or () if key == TOKEN_KEY]
    if values:
        return _token_owner(policy, values)
    names: tuple[str, ...] = ()
    if policy.certificates:
        names = certificate_names(context.auth_context())
        identity = policy.by_certificate(names)
        if identity is not None:
            return identity
    if policy.anonymous is not None:
        return policy.anonymous
    if names:
        text = f"No identity has the name of the client's certificate ({', '.join(map(repr, names[:3]))})."
        raise UnauthenticatedError(text, credential="certificate")
    text = f'This server serves callers that it knows: send a token, as the metadata {TOKEN_KEY!r} with "Bearer TOKEN".'
    raise UnauthenticatedError(text, credential="none")


def certificate_names(context: Any) -> tuple[str, ...]:
    """Return the names of the client's certificate: URIs and DNS names; its common name only where it has no other.

    A URI has a colon and a DNS name has none, so that neither passes for the other; nor does a common name for a URI.
    """
    dns = [name for name in _texts(context, "peer_dns") if ":" not in name]
    uris = [name for name in _texts(context, "peer_uri") if ":" in name]
    if "x509_subject_alternative_name" in context:
        return (*uris, *dns)
    return tuple(name for name in _texts(context, "x509_common_name") if ":" not in name)


def _texts(context: Any, key: str) -> Iterable[str]:
    return (value.decode("utf-8", "replace") for value in context.get(key, ()))


def _token_owner(policy: Policy, values: list[Any]) -> Identity:
    token = bearer(values[0]) if len(values) == 1 and isinstance(values[0], str) else None
    if token is None:
        text = f'The metadata {TOKEN_KEY!r} must be there once, and be "Bearer " and a token.'
        raise UnauthenticatedError(text, credential="malformed token")
    identity = policy.by_token(digest(token))
    if identity is None:
        text = "The token is not one that this server knows; it may have been withdrawn."
        raise UnauthenticatedError(text, credential="unknown token")
    return identity


def _roles(request: Message, role: str, dataset: str) -> Iterable[str]:
    """Return every role that a request needs."""
    if role:
        yield role
    if isinstance(request, explanation_service_pb2.PredictRequest) and request.explanations:
        yield EXPLAIN
    if isinstance(request, explanation_service_pb2.AblateRequest):
        yield EXPLAIN
    if isinstance(request, explanation_service_pb2.DissectRequest):
        yield DISSECT
    if dataset:
        yield DISSECT


def asked_in(request: Message) -> Message:
    """Return the request that a job is to do; any other as it is."""
    if not isinstance(request, job_service_pb2.SubmitJobRequest):
        return request
    which = request.WhichOneof("request")
    found: Message = request if which is None else getattr(request, which)
    return found


def _model_named(request: Any) -> str | None:
    """Return the name of the model that a request is about, or None if it is about none."""
    fields = request.DESCRIPTOR.fields_by_name
    if "model" in fields:
        return str(request.model.name)
    return next((str(getattr(request, field)) for field in ("model_name", "name") if field in fields), None)


def _dataset_named(request: Any) -> str:
    """Return the name of the data set that a request would read; empty for none."""
    fields = request.DESCRIPTOR.fields_by_name
    if "probe" in fields:
        return str(request.probe.dataset)
    return str(getattr(request, "dataset", ""))


def _check_model(name: str, shown: Hello) -> None:
    """Refuse a model that is not shown in the words of one that is not there: the worker's would name all there are."""
    if not any(each.key.name == name for each in shown.models) and not any(each.name == name for each in shown.broken):
        raise catalogue.no_model(name, shown)


def _check_dataset(name: str, shown: Hello) -> None:
    if not any(each.name == name for each in shown.datasets):
        raise _no_dataset(name, shown)


def _no_dataset(name: str, shown: Hello) -> NotFoundError:
    listed = ", ".join([each.name for each in shown.datasets][:20]) or "none"
    return NotFoundError(f"No data set {name!r}; there are: {listed}.", resource_type="dataset", resource_name=name)


def _shown(hello: Hello, identity: Identity) -> Hello:
    return replace(
        hello,
        models=tuple(each for each in hello.models if identity.sees(each.key.name)),
        broken=tuple(each for each in hello.broken if identity.sees(each.name)),
        datasets=tuple(each for each in hello.datasets if identity.sees_dataset(each.name)),
    )
