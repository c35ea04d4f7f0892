"""What the workers said of models and methods, turned into the replies of the model service."""

from pellucid.v1 import explanation_pb2, model_service_pb2

from pellucid_server.errors import NotFoundError, UnavailableError, UnsupportedError, broken_model
from pellucid_server.rpc.replies import baseline_kind, model_spec, param_value
from pellucid_server.vocabulary import descriptions, messages, requests

_MODALITIES = {
    "tensor": model_service_pb2.MODALITY_TENSOR,
    "image": model_service_pb2.MODALITY_IMAGE,
    "tabular": model_service_pb2.MODALITY_TABULAR,
    "text": model_service_pb2.MODALITY_TEXT,
}
_OUTPUT_KINDS = {
    "logits": model_service_pb2.OUTPUT_KIND_LOGITS,
    "sigmoid-logits": model_service_pb2.OUTPUT_KIND_SIGMOID_LOGITS,
    "probabilities": model_service_pb2.OUTPUT_KIND_PROBABILITIES,
    "values": model_service_pb2.OUTPUT_KIND_VALUES,
}
_PARAMETER_TYPES = {
    "integer": model_service_pb2.PARAMETER_TYPE_INTEGER,
    "real": model_service_pb2.PARAMETER_TYPE_REAL,
    "flag": model_service_pb2.PARAMETER_TYPE_FLAG,
    "text": model_service_pb2.PARAMETER_TYPE_TEXT,
    "tensor": model_service_pb2.PARAMETER_TYPE_TENSOR,
}
_DATASET_KINDS = {
    "": model_service_pb2.DATASET_KIND_UNSPECIFIED,
    "pictures": model_service_pb2.DATASET_KIND_PICTURES,
    "table": model_service_pb2.DATASET_KIND_TABLE,
    "texts": model_service_pb2.DATASET_KIND_TEXTS,
    "tensor": model_service_pb2.DATASET_KIND_TENSOR,
}


def known(hello: messages.Hello | None) -> messages.Hello:
    """Return what the workers said.

    Raises
    ------
    UnavailableError
        None has said anything yet.
    """
    if hello is None:
        raise UnavailableError("The models are being loaded; try again soon.", retry_after_seconds="1.000")
    return hello


def find(hello: messages.Hello, key: requests.ModelKey) -> descriptions.ModelInfo | descriptions.BrokenModel:
    """Find a model version; version 0 is the highest that is served, or, if none is, the highest.

    Raises
    ------
    NotFoundError
        The repository does not have the model or the version.
    UnsupportedError
        The version has another digest than `key` insists on, or is broken and so has none.
    """
    versions = {model.key.version: model for model in hello.models if model.key.name == key.name}
    if key.version not in versions and not (versions and key.version == 0):
        broken = descriptions.find_broken(hello.broken, key)
        if broken is not None and key.digest:
            raise broken_model(broken.name, broken.version, broken.reason)
        if broken is not None:
            return broken
    if not versions:
        raise no_model(key.name, hello)
    found = versions.get(key.version or max(versions))
    if found is None:
        listed = ", ".join(str(version) for version in sorted(versions))
        text = f"No version {key.version} of model {key.name!r}; served: {listed}."
        raise NotFoundError(text, resource_type="model version", resource_name=f"{key.name}/{key.version}")
    if key.digest not in ("", found.key.digest):
        where = f"{key.name}/{found.key.version}"
        text = f"{where} has the digest {found.key.digest}, not {key.digest}."
        raise UnsupportedError(text, subject=f"models/{where}")
    return found


def no_model(name: str, hello: messages.Hello) -> NotFoundError:
    """Make the error for a model that is not there."""
    names = ", ".join(sorted({model.key.name for model in hello.models})) or "none"
    return NotFoundError(f"No model {name!r}; served: {names}.", resource_type="model", resource_name=name)


def list_models_response(hello: messages.Hello) -> model_service_pb2.ListModelsResponse:
    """Write the list of models, by name, then version, broken ones among them."""
    ordered = sorted(hello.models, key=lambda model: (model.key.name, model.key.version))
    highest = {model.key.name: model.key.version for model in ordered}
    reasons = stale(hello)
    keys = {(model.key.name, model.key.version) for model in ordered}
    served = [
        model_service_pb2.ModelSummary(
            model=model_spec(model.key),
            description=model.description,
            latest=model.key.version == highest[model.key.name],
            state=model_service_pb2.MODEL_STATE_SERVING,
            reason=reasons.get((model.key.name, model.key.version), ""),
        )
        for model in ordered
    ]
    broken = [
        model_service_pb2.ModelSummary(
            model=_broken_spec(each), state=model_service_pb2.MODEL_STATE_BROKEN, reason=each.reason
        )
        for each in hello.broken
        if (each.name, each.version) not in keys
    ]
    listed = sorted([*served, *broken], key=lambda each: (each.model.name, each.model.version))
    return model_service_pb2.ListModelsResponse(models=listed)


def stale(hello: messages.Hello) -> dict[tuple[str, int], str]:
    """Return why files that have changed could not be loaded, of versions that are served as they were before."""
    served = {(model.key.name, model.key.version) for model in hello.models}
    return {(each.name, each.version): each.reason for each in hello.broken if (each.name, each.version) in served}


def get_model_response(
    model: descriptions.ModelInfo | descriptions.BrokenModel, reason: str = ""
) -> model_service_pb2.GetModelResponse:
    """Write all that a caller can know of a model version; `reason` is why its changed files could not be loaded."""
    if isinstance(model, descriptions.BrokenModel):
        return model_service_pb2.GetModelResponse(
            model=_broken_spec(model), state=model_service_pb2.MODEL_STATE_BROKEN, reason=model.reason
        )
    return model_service_pb2.GetModelResponse(
        model=model_spec(model.key),
        description=model.description,
        inputs=[_input(each) for each in model.inputs],
        outputs=[_output(each) for each in model.outputs],
        layers=[_layer(each) for each in model.layers],
        capabilities=[
            model_service_pb2.Capability(method=each.method, allowed=each.allowed, reason=each.reason, rows=each.rows)
            for each in model.capabilities
        ],
        runtime=model.runtime,
        parity=None if model.parity is None else _parity(model.parity),
        background_rows=model.background_rows,
        solo=model.solo,
        state=model_service_pb2.MODEL_STATE_SERVING,
        reason=reason,
    )


def list_methods_response(hello: messages.Hello) -> model_service_pb2.ListMethodsResponse:
    """Write the list of methods, by RPC, then name."""
    ordered = sorted(hello.methods, key=lambda method: (method.rpc, method.name))
    return model_service_pb2.ListMethodsResponse(methods=[_method(each) for each in ordered])


def list_datasets_response(hello: messages.Hello) -> model_service_pb2.ListDatasetsResponse:
    """Write the list of data sets, by name, broken ones among them."""
    ordered = sorted(hello.datasets, key=lambda each: each.name)
    return model_service_pb2.ListDatasetsResponse(datasets=[_dataset(each) for each in ordered])


def _dataset(info: descriptions.DatasetInfo) -> model_service_pb2.Dataset:
    return model_service_pb2.Dataset(
        name=info.name,
        description=info.description,
        kind=_DATASET_KINDS[info.kind],
        input=info.input,
        label=info.label,
        groups=info.groups,
        classes=info.classes,
        rows=info.rows,
        digest=info.digest,
        state=model_service_pb2.DATASET_STATE_BROKEN if info.reason else model_service_pb2.DATASET_STATE_READY,
        reason=info.reason,
        concepts=info.concepts,
        categories=info.categories,
    )


def _broken_spec(model: descriptions.BrokenModel) -> explanation_pb2.ModelSpec:
    return model_spec(requests.ModelKey(model.name, model.version))


def _input(info: descriptions.InputInfo) -> model_service_pb2.InputSignature:
    return model_service_pb2.InputSignature(
        name=info.name,
        modality=_MODALITIES[info.modality],
        data_type=f"DATA_TYPE_{info.data_type.upper()}",
        shape=info.shape,
        columns=[_column(each) for each in info.columns],
        image=None if info.image is None else _image(info.image),
    )


def _column(info: descriptions.ColumnInfo) -> model_service_pb2.Column:
    return model_service_pb2.Column(
        name=info.name, categories=info.categories, minimum=info.minimum, maximum=info.maximum, unit=info.unit
    )


def _image(info: descriptions.ImageInfo) -> model_service_pb2.ImagePreprocessing:
    return model_service_pb2.ImagePreprocessing(
        resize=info.resize,
        crop_height=info.crop_height,
        crop_width=info.crop_width,
        interpolation=info.interpolation,
        mean=info.mean,
        standard_deviation=info.standard_deviation,
    )


def _output(info: descriptions.OutputInfo) -> model_service_pb2.OutputSignature:
    return model_service_pb2.OutputSignature(
        name=info.name,
        kind=_OUTPUT_KINDS[info.kind],
        data_type=f"DATA_TYPE_{info.data_type.upper()}",
        shape=info.shape,
        labels=info.labels,
        unit=info.unit,
    )


def _layer(info: descriptions.LayerInfo) -> model_service_pb2.Layer:
    return model_service_pb2.Layer(
        name=info.name,
        type=info.type,
        shape=info.shape,
        units=info.units,
        cuttable=info.cuttable,
        heads=info.heads,
        branch=info.branch,
    )


def _parity(info: descriptions.ParityInfo) -> model_service_pb2.Parity:
    return model_service_pb2.Parity(
        largest_difference=info.largest_difference, tolerance=info.tolerance, holds=info.holds
    )


def _method(info: descriptions.MethodInfo) -> model_service_pb2.Method:
    return model_service_pb2.Method(
        name=info.name,
        rpc=info.rpc,
        family=info.family,
        summary=info.summary,
        source=info.source,
        parameters=[_parameter(each) for each in info.parameters],
        axioms=info.axioms,
        needs=info.needs,
        baselines=[baseline_kind(word) for word in info.baselines],
        takes_tolerance=info.takes_tolerance,
        rows_parameter=info.rows_parameter,
    )


def _parameter(info: descriptions.ParameterInfo) -> model_service_pb2.Parameter:
    default: explanation_pb2.ParamValue | None = None if info.default is None else param_value(info.default)
    return model_service_pb2.Parameter(
        name=info.name,
        type=_PARAMETER_TYPES[info.type],
        default_value=default,
        minimum=info.minimum,
        maximum=info.maximum,
        choices=info.choices,
        text=info.text,
    )
