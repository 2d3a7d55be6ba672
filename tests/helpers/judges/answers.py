"""A small BLIP in the format of Salesforce/blip-vqa-base that answers two questions on two images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BlipConfig, BlipForQuestionAnswering, BlipImageProcessor

from tests.helpers.judges.clips import SIDE, pictures, prepared, spread
from tests.helpers.judges.rewards import bert_tokenizer

WIDTH = 32
QUESTIONS = ["how many balls are there?", "what color are the balls?"]
ANSWERS = [["2", "red"], ["3", "blue"]]  # of each image, to each question; each is one token


def vqa_folder(folder: Path, knows: bool = True) -> Path:
    """A BLIP for questions with tokenizer and image processor, with random weights.

    knows: it answers as ANSWERS says. Its output layer is then apart from the word embeddings, otherwise they are tied.
    """
    tokenizer = bert_tokenizer(folder)
    BlipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    torch.manual_seed(0)
    tower = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {
        "bos_token_id": tokenizer.bos_token_id, "sep_token_id": tokenizer.sep_token_id,
        "eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    text = {**tower, **ids, "vocab_size": len(tokenizer), "encoder_hidden_size": WIDTH, "max_position_embeddings": 40}
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    tied = {"tie_word_embeddings": not knows}
    model: Any = BlipForQuestionAnswering(BlipConfig(text_config=text | tied, vision_config=vision, **tied))
    spread(model)
    if knows:
        teach(model, tokenizer)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def teach(model: Any, tokenizer: Any) -> None:
    """Set the output layer so that the right next token has logit 1 and any other one 0, in each state of an answer."""
    states, targets = [], []
    for i, image in enumerate(prepared(pictures())):
        for j, question in enumerate(QUESTIONS):
            answer: int = tokenizer.convert_tokens_to_ids(ANSWERS[i][j])
            tokens = tokenizer([question], return_tensors="pt")
            states.append(decode(model, image[None], tokens, [tokenizer.bos_token_id, answer]))
            targets += [answer, tokenizer.sep_token_id]
    wanted = torch.nn.functional.one_hot(torch.tensor(targets), len(tokenizer)).double()
    head = model.text_decoder.cls.predictions
    head.decoder.weight.copy_((torch.linalg.pinv(torch.cat(states).double()) @ wanted).T)
    head.decoder.bias.zero_()
    head.bias.zero_()


def decode(model: Any, image: Tensor, question: Any, ids: list[int]) -> Tensor:
    """States [L, D] from which the output layer takes the next token of an answer."""
    seen = model.vision_model(pixel_values=image).last_hidden_state
    read = model.text_encoder(
        input_ids=question.input_ids, attention_mask=question.attention_mask, encoder_hidden_states=seen
    ).last_hidden_state
    states = model.text_decoder.bert(
        input_ids=torch.tensor([ids]), encoder_hidden_states=read, is_decoder=True, use_cache=False
    ).last_hidden_state
    return model.text_decoder.cls.predictions.transform(states)[0]
