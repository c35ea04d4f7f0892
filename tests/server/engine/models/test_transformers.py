"""Tiny networks of the `transformers` library with random weights: exported, loaded, and held to the original."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from pellucid_server.engine.models.exported.archive import load_program
from pellucid_server.engine.models.exported.torch_versions import VERSION
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.export import ExportError, export
from torch import Tensor, nn

TINY = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 32,
    "max_position_embeddings": 16,
}


class Logits(nn.Module):
    """Returns the logits alone, as a server needs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


class Translation(nn.Module):
    """Gives the decoder its words, too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=input_ids[:, :3], use_cache=False
        ).logits
        return logits


def _bert() -> nn.Module:
    return Logits(transformers.BertForSequenceClassification(transformers.BertConfig(**TINY, num_labels=3)))


def _distilbert() -> nn.Module:
    config = transformers.DistilBertConfig(
        dim=8, n_layers=1, n_heads=2, hidden_dim=16, vocab_size=32, max_position_embeddings=16, num_labels=3
    )
    return Logits(transformers.DistilBertForSequenceClassification(config))


def _roberta() -> nn.Module:
    config = transformers.RobertaConfig(**TINY, num_labels=3)
    return Logits(transformers.RobertaForSequenceClassification(config))


def _electra() -> nn.Module:
    config = transformers.ElectraConfig(**TINY, embedding_size=8, num_labels=3)
    return Logits(transformers.ElectraForSequenceClassification(config))


def _deberta() -> nn.Module:
    config = transformers.DebertaV2Config(
        **TINY, relative_attention=True, position_buckets=4, pos_att_type=["p2c", "c2p"], num_labels=3
    )
    return Logits(transformers.DebertaV2ForSequenceClassification(config))


def _gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=32, n_positions=16, use_cache=False)
    return Logits(transformers.GPT2LMHeadModel(config))


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(**TINY, num_key_value_heads=1, use_cache=False)
    return Logits(transformers.LlamaForCausalLM(config))


def _t5() -> nn.Module:
    config = transformers.T5Config(
        d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=32, decoder_start_token_id=0
    )
    return Translation(transformers.T5ForConditionalGeneration(config))


FAMILIES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "bert": (_bert, "model.bert.embeddings.word_embeddings"),
    "distilbert": (_distilbert, "model.distilbert.embeddings.word_embeddings"),
    "roberta": (_roberta, "model.roberta.embeddings.word_embeddings"),
    "electra": (_electra, "model.electra.embeddings.word_embeddings"),
    "deberta": (_deberta, "model.deberta.embeddings.word_embeddings"),
    "gpt2": (_gpt2, "model.transformer.wte"),
    "llama": (_llama, "model.model.embed_tokens"),
    "t5": (_t5, "model.encoder.block.0.layer.0.layer_norm"),
}
"""What makes a network, and a layer of it at which derivatives are compared."""


HEADS = {
    "bert": ("model.bert.encoder.layer.0.attention.self", "model.bert.encoder.layer.0.attention.output.dense"),
    "distilbert": ("model.distilbert.transformer.layer.0.attention", ".out_lin"),
    "roberta": ("model.roberta.encoder.layer.0.attention.self", "model.roberta.encoder.layer.0.attention.output.dense"),
    "electra": ("model.electra.encoder.layer.0.attention.self", "model.electra.encoder.layer.0.attention.output.dense"),
    "deberta": ("model.deberta.encoder.layer.0.attention.self", "model.deberta.encoder.layer.0.attention.output.dense"),
    "gpt2": ("model.transformer.h.0.attn", ".c_proj"),
    "llama": ("model.model.layers.0.self_attn", ".o_proj"),
    "t5": ("model.encoder.block.0.layer.0.SelfAttention", ".o"),
}
"""The module that has two heads of width 4, and their projection, with a dot in front if it is a part of the module."""


def _without_second_head(network: nn.Module, family: str, inputs: dict[str, Tensor]) -> Tensor:
    """Return the logits if the projection takes nothing from the second head."""
    attention, projection = HEADS[family]
    weight = network.get_submodule(attention + projection if projection[0] == "." else projection).weight
    assert isinstance(weight, Tensor)
    # GPT-2's has what it takes on axis 0.
    part = weight[4:] if family == "gpt2" else weight[:, 4:]
    kept = part.detach().clone()
    with torch.no_grad():
        part.zero_()
        logits: Tensor = network(**inputs)
        part.copy_(kept)
    return logits


def rows(count: int, length: int = 6) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(count)
    mask = torch.ones(count, length, dtype=torch.int64)
    mask[0, -2:] = 0
    return {"input_ids": torch.randint(3, 32, (count, length), generator=source), "attention_mask": mask}


def _eager(network: nn.Module, layer: str, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the logits, and the derivative of their weighted sum at the layer's value."""
    values = []
    hook = network.get_submodule(layer).register_forward_hook(lambda module, given, value: values.append(value))
    logits = network(**inputs)
    hook.remove()
    (gradient,) = torch.autograd.grad(_score(logits), values[:1])
    return logits.detach(), gradient


def _score(logits: Tensor) -> Tensor:
    return (logits * torch.linspace(-1.0, 1.5, logits.numel()).reshape(logits.shape)).sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_of_transformers_is_exported_and_agrees_with_itself(tmp_path: Path, family: str) -> None:
    if family == "llama" and VERSION != "2.13":
        pytest.skip(f"torch {VERSION} exports its torch.no_grad as a graph of its own, which is refused by name")
    torch.manual_seed(1)
    make, layer = FAMILIES[family]
    network = make().eval()

    exported = export(network, rows(2), tmp_path / family / "1", onnx=False)

    graph = Graph.from_program(load_program(tmp_path / family / "1" / "model.pt2"))
    logits, gradient = _eager(network, layer, rows(3))
    outputs, captured = graph.with_leaf_at(layer)(rows(3))
    (found,) = torch.autograd.grad(_score(outputs["output"]), [captured[layer]])
    assert exported.outputs == ("output",)
    torch.testing.assert_close(outputs["output"].detach(), logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)
    assert float(gradient.abs().max()) > 0
    suffix = graph.suffix(f"{HEADS[family][0]}:heads")
    context = suffix.context(rows(3))
    changed = suffix(context.value * torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1), context)["output"]
    torch.testing.assert_close(changed, _without_second_head(network, family, rows(3)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(changed, logits, atol=1e-6)


def test_a_network_that_returns_an_object_is_refused_with_what_to_return(tmp_path: Path) -> None:
    network = transformers.BertForSequenceClassification(transformers.BertConfig(**TINY))

    with pytest.raises(ExportError, match=r"SequenceClassifierOutput.*return model\(.*\)\.logits"):
        export(network, rows(2), tmp_path / "bert" / "1", onnx=False)
