"""Networks of other shapes than the demo models', through the real server and client: one number per row, and text."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from e2e.serving import serve
from matplotlib.figure import Figure
from pellucid import Client
from pellucid.errors import InvalidRequestError
from pellucid_server.export import export
from torch import Tensor, nn

REGRESSION, CHANCE, ONNX, TEXT = "regression", "chance", "onnx-regression", "tiny-bert"
WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
GRADIENTS = ["saliency", "input-x-gradient", "integrated-gradients", "smoothgrad"]
OTHERS = ["occlusion", "feature-ablation", "kernel-shap"]
_CHANCE = '[[outputs]]\nname = "output"\nkind = "sigmoid-logits"\nlabels = ["ill"]\n'


class Regression(nn.Module):
    """The weighted sum of a row, one number per row."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1, bias=False)
        self.linear.weight.data = torch.from_numpy(WEIGHTS[None])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).squeeze(1)


class Classifier(nn.Module):
    """A tiny BERT with random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = transformers.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=32, num_labels=3
        )
        self.model = transformers.BertForSequenceClassification(config).eval()

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=tokens).logits
        return logits


@pytest.fixture(scope="module")
def text() -> Classifier:
    return Classifier()


@pytest.fixture(scope="module")
def client(text: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    repository = tmp_path_factory.mktemp("repository")
    for name in (REGRESSION, CHANCE, ONNX):
        export(Regression(), (torch.ones(2, 4),), repository / name / "1", onnx=name == ONNX)
    (repository / CHANCE / "model.toml").write_text(_CHANCE)
    (repository / ONNX / "1" / "model.pt2").unlink()
    export(text, {"tokens": torch.tensor([[1, 2, 3, 4, 5], [5, 6, 7, 8, 9]])}, repository / TEXT / "1", onnx=False)
    with serve(repository, tmp_path_factory.mktemp("server")) as running, Client(running.address) as connected:
        yield connected


def test_the_gradient_of_one_number_per_row_is_its_weights(client: Client) -> None:
    found = client.attribute(REGRESSION, np.ones((1, 4), np.float32), "saliency")

    np.testing.assert_allclose(found.scores["x"], [1, 2, 3, 4], rtol=1e-6)
    assert (found.output_index, found.instance_output_value) == ((), 10.0)


@pytest.mark.parametrize("method", GRADIENTS + OTHERS)
@pytest.mark.parametrize("model", [REGRESSION, CHANCE])
def test_every_method_explains_one_number_per_row(client: Client, model: str, method: str) -> None:
    row = np.array([[0.5, -1.0, 2.0, 0.25]], np.float32)

    found = client.attribute(model, row, method)

    np.testing.assert_allclose(found.scores["x"], _expected(method, row[0]), rtol=1e-4, atol=1e-4)
    assert found.receipt.target is not None
    assert isinstance(found.plot(), Figure)


def _expected(method: str, row: Any) -> Any:
    """All methods are exact on a linear score; those that compare multiply by the row, as the baseline is 0."""
    return WEIGHTS if method in ("saliency", "smoothgrad") else WEIGHTS * row


@pytest.mark.parametrize("method", OTHERS)
def test_a_model_with_an_onnx_file_alone_explains_one_number_per_row(client: Client, method: str) -> None:
    row = np.array([[0.5, -1.0, 2.0, 0.25]], np.float32)

    found = client.attribute(ONNX, row, method)

    np.testing.assert_allclose(found.scores["x"], WEIGHTS * row[0], rtol=1e-4, atol=1e-4)


def test_a_chance_per_row_has_a_label_and_a_probability(client: Client) -> None:
    rows = np.array([[0.1, 0, 0, 0], [0, 0, 0, -1]], np.float32)

    predicted = client.predict(CHANCE, rows)
    found = client.attribute(CHANCE, rows[:1], "saliency", target="ill", space="probabilities")

    assert predicted.outputs["output"].shape == (2,)
    assert [(top[0].label, len(top)) for top in predicted.top] == [("ill", 1), ("ill", 1)]
    chances = 1 / (1 + np.exp(-np.array([0.1, -4.0])))
    assert [top[0].probability for top in predicted.top] == pytest.approx(chances.tolist(), rel=1e-6)
    np.testing.assert_allclose(found.scores["x"], WEIGHTS * chances[0] * (1 - chances[0]), rtol=1e-5)
    assert (found.label, found.instance_output_value) == ("ill", pytest.approx(chances[0]))


def test_one_number_per_row_has_no_contrast(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="one number per row"):
        client.attribute(REGRESSION, np.ones((1, 4), np.float32), "saliency", target=0, contrast=0)


def test_a_network_of_transformers_is_served_and_explained(client: Client, text: Classifier) -> None:
    tokens = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int64)

    predicted = client.predict(TEXT, tokens)
    found = client.attribute(TEXT, tokens[:1], "feature-ablation")

    with torch.no_grad():
        logits = text(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(predicted.outputs["output"], logits, rtol=1e-5, atol=1e-5)
    assert found.instance_output_value == pytest.approx(float(logits[0].max()), rel=1e-5)
    assert np.abs(found.scores["tokens"]).max() > 0
