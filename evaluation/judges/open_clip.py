"""Reads a CLIP checkpoint of the library open_clip as a transformers CLIPModel."""

from pathlib import Path

from torch import Tensor
from transformers import CLIPConfig, CLIPModel
from transformers.initialization import no_init_weights

from evaluation.judges.checkpoints import Weights, count_layers, fill, read_weights, take

HEADS = 16  # of both towers of ViT-H-14; the weights do not tell
OWN = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
}
NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
TOWERS = {
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "transformer.resblocks": "text_model.encoder.layers",
}
LAYER = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def read_open_clip(file: Path) -> CLIPModel:
    """The model of a checkpoint, with the sizes of its tensors. Raises EvaluatorError if it is another network."""
    weights = read_weights(file)
    weights.pop("attn_mask", None)  # a constant that older versions of open_clip store
    with no_init_weights():  # ViT-H has a thousand million weights, all of which follow
        model = CLIPModel(describe(weights))
    fill(model, convert(weights))
    return model


def describe(weights: Weights) -> CLIPConfig:
    """Config of the model, from the shapes of its weights."""
    patches, text = take(weights, "visual.conv1.weight"), take(weights, "token_embedding.weight")
    positions = len(take(weights, "visual.positional_embedding")) - 1
    activation = {"num_attention_heads": HEADS, "hidden_act": "gelu"}
    vision_prefix, text_prefix = TOWERS
    return CLIPConfig(
        projection_dim=take(weights, "visual.proj").shape[1],
        vision_config={
            **activation,
            "hidden_size": patches.shape[0],
            "patch_size": patches.shape[2],
            "image_size": round(positions**0.5) * patches.shape[2],
            "num_hidden_layers": count_layers(weights, vision_prefix),
            "intermediate_size": len(take(weights, f"{vision_prefix}.0.mlp.c_fc.weight")),
        },
        text_config={
            **activation,
            "hidden_size": text.shape[1],
            "vocab_size": text.shape[0],
            "max_position_embeddings": len(take(weights, "positional_embedding")),
            "num_hidden_layers": count_layers(weights, text_prefix),
            "intermediate_size": len(take(weights, f"{text_prefix}.0.mlp.c_fc.weight")),
            "eos_token_id": 2,  # transformers then pools, as open_clip does, at the token with the highest id
        },
    )


def convert(weights: Weights) -> Weights:
    """Weights by their names in transformers. Those without a counterpart keep their names."""
    converted: Weights = {}
    for name, value in weights.items():
        for part, tensor in _split(name, value).items():
            converted[_rename(part)] = tensor
    return converted


def _split(name: str, value: Tensor) -> dict[str, Tensor]:
    """A joint projection to queries, keys and values as three; the transposed projections of the towers turned."""
    if name in PROJECTIONS:
        return {name: value.T.contiguous()}
    if ".attn.in_proj_" not in name:
        return {name: value}
    layer, _, kind = name.rpartition(".in_proj_")
    return {f"{layer}.{k}_proj.{kind}": part.contiguous() for k, part in zip("qkv", value.chunk(3), strict=True)}


def _rename(name: str) -> str:
    if name in OWN or name in PROJECTIONS:
        return (OWN | PROJECTIONS)[name]
    stem, _, kind = name.rpartition(".")
    if stem in NORMS:
        return f"{NORMS[stem]}.{kind}"
    for tower, layers in TOWERS.items():
        if stem.startswith(f"{tower}."):
            number, _, module = stem.removeprefix(f"{tower}.").partition(".")
            own = LAYER.get(module) or module.replace("attn.", "self_attn.")
            return f"{layers}.{number}.{own}.{kind}"
    return name
