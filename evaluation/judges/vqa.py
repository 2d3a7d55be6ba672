"""Counts and colours by a network that answers questions on images; GenEval (Ghosh et al. 2023) uses detectors."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertTokenizer, BlipForQuestionAnswering, BlipImageProcessor

from dmd.errors import EvaluatorError
from dmd.storage.weights import load_network
from evaluation.judges.base import PART, pixels
from evaluation.judges.questions import Question, make_questions

ANSWER_TOKENS = 5  # longest answer


class QuestionJudge:
    """A BLIP that answers questions. Judgements [B, 2]: right answers and questions of each image."""

    def __init__(self, model: Any, processor: Path, device: torch.device) -> None:
        """processor: folder of tokenizer and image processor."""
        self.model = model.to(device).eval().requires_grad_(False)
        self.processor = BlipImageProcessor.from_pretrained(processor, local_files_only=True)
        self.tokenizer = BertTokenizer.from_pretrained(processor, local_files_only=True)

    @torch.inference_mode()
    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        counts = torch.zeros(len(images), 2)
        for part in self._batches(captions):
            answers = self._answer(images[[i for i, _ in part]], [question for _, question in part])
            for (i, question), answer in zip(part, answers, strict=True):
                counts[i] += torch.tensor([float(question.is_right(answer)), 1.0])
        return counts

    def _batches(self, captions: Sequence[str]) -> Iterator[list[tuple[int, Question]]]:
        """Yield batches of questions, each with the index of its image.

        The questions of a batch have equally many tokens: transformers' BLIP also answers by the padding of a question
        (generate masks none of it), so an answer would depend on the other questions of its batch.
        """
        asked = [(i, question) for i, caption in enumerate(captions) for question in make_questions(caption)]
        by_length = defaultdict[int, list[tuple[int, Question]]](list)
        for i, question in asked:
            by_length[len(self.tokenizer(question.text).input_ids)].append((i, question))
        for alike in by_length.values():
            yield from (alike[k : k + PART] for k in range(0, len(alike), PART))

    def _answer(self, images: Tensor, questions: Sequence[Question]) -> list[str]:
        """The most probable words, one after the other, for a question on each image."""
        tokens = self.tokenizer([q.text for q in questions], truncation=True, return_tensors="pt")
        answers = self.model.generate(
            input_ids=tokens.input_ids.to(self.model.device),
            attention_mask=tokens.attention_mask.to(self.model.device),
            pixel_values=pixels(self.processor, images, self.model),
            max_new_tokens=ANSWER_TOKENS,
            num_beams=1,
            do_sample=False,
        )
        return self.tokenizer.batch_decode(answers, skip_special_tokens=True)


def load_vqa(weights: Path, processor: Path, device: torch.device) -> QuestionJudge:
    """A transformers folder of a BlipForQuestionAnswering, such as Salesforce/blip-vqa-base."""
    return QuestionJudge(load_network(weights, BlipForQuestionAnswering, EvaluatorError), processor, device)
