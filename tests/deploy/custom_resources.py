"""Checks custom resources against what their projects say of them; unknown fields are refused."""

import ast
import json
import re
import zipfile

import kubernetes_validate
from deploy.kubernetes_tools import kserve_models, node_folder, run

_PACKAGES = {
    "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator",
    "keda.sh/v1alpha1": "@kubernetes-models/keda",
}
_KSERVE = {
    ("serving.kserve.io/v1alpha1", "ClusterServingRuntime"): "V1alpha1ClusterServingRuntime",
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
}
_SIMPLE = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def is_custom(document):
    return document["apiVersion"] in _PACKAGES or (document["apiVersion"], document["kind"]) in _KSERVE


def problems_by_node(documents, folder):
    """Return what the published schemas and types of Prometheus' operator and of KEDA say against the documents.

    The schemas check values and what must be there; the types, by TypeScript, that nothing else is.
    """
    lines, checks = [], []
    for number, document in enumerate(documents):
        kind, version = document["kind"], document["apiVersion"]
        lines += [
            f'import {{ {kind} as K{number}, I{kind} as I{number} }} from "{_PACKAGES[version]}/{version}/{kind}";',
            f"const d{number}: I{number} = {json.dumps(document)};",
        ]
        checks.append(f"new K{number}(d{number}).validate();")
    modules = folder / "node_modules"
    if not modules.exists():
        modules.symlink_to(node_folder() / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "check.ts").write_text("\n".join(lines + checks))
    options = "--module esnext --moduleResolution bundler --target es2022 --skipLibCheck --strict --preserveSymlinks"
    compiled = run([modules / ".bin" / "tsc", *options.split(), "check.ts"], cwd=folder)
    ran = run(["node", "check.js"], cwd=folder)
    return [text for code, text in ((compiled.returncode, compiled.stdout), (ran.returncode, ran.stderr)) if code]


def problems_by_kserve(document):
    """Return what KServe's models say against a document, and Kubernetes against the containers and volumes in it."""
    model = _KSERVE[document["apiVersion"], document["kind"]]
    with zipfile.ZipFile(kserve_models()) as wheel:
        return list(_problems(wheel, model, document, document["kind"]))


def _problems(wheel, type_name, value, place):
    if matched := re.fullmatch(r"list\[(.*)\]", type_name):
        if not isinstance(value, list):
            yield f"{place} is no list"
            return
        if matched[1] in ("V1Container", "V1Volume"):
            yield from _pod_problems(matched[1], value, place)
            return
        for number, each in enumerate(value):
            yield from _problems(wheel, matched[1], each, f"{place}[{number}]")
    elif matched := re.fullmatch(r"dict\(str, (.*)\)", type_name):
        for key, each in value.items():
            yield from _problems(wheel, matched[1], each, f"{place}.{key}")
    elif type_name in _SIMPLE:
        if not isinstance(value, _SIMPLE[type_name]) or (type_name == "int" and isinstance(value, bool)):
            yield f"{place} is {value!r}, but should be {type_name}"
    elif type_name == "V1ObjectMeta":
        unknown = set(value) - {"name", "namespace", "labels", "annotations"}
        yield from (f"{place} has {key}" for key in unknown)
    else:
        types, names = _fields(wheel, type_name)
        for key, each in value.items():
            if key not in names:
                yield f"{place} has {key!r}, which {type_name} does not"
            else:
                yield from _problems(wheel, types[names[key]], each, f"{place}.{key}")


def _fields(wheel, type_name):
    """Return the types of a model's fields, and their Python names by those in JSON."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type_name).lower()
    tree = ast.parse(wheel.read(f"kserve/models/{words}.py"))
    found = {
        target.id: ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("openapi_types", "attribute_map")
    }
    return found["openapi_types"], {json_name: name for name, json_name in found["attribute_map"].items()}


def _pod_problems(type_name, value, place):
    containers, volumes = (value, []) if type_name == "V1Container" else ([{"name": "a", "image": "a"}], value)
    spec = {"containers": containers, "volumes": volumes}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}
    try:
        kubernetes_validate.validate(pod, "1.34", strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{place}: {error.message}"
