"""How a CLIP model reads the captions of the data: which it cuts, and which it cannot tell apart."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

CAPTIONS_AT_ONCE = 4096


@dataclass(frozen=True)
class CaptionReading:
    """Counts of different captions."""

    captions: int
    tokens: int  # that the model reads, with the start and end tokens
    cut: int  # captions that have more tokens
    alike: int  # captions whose tokens, after the cut, are those of another caption

    def describe(self) -> list[str]:
        """Return a sentence for each finding; none if the model reads every caption whole and apart."""
        findings = []
        if self.cut:
            findings.append(
                f"{self.cut} of {self.captions} captions are cut at the {self.tokens} tokens that CLIP reads"
            )
        if self.alike:
            findings.append(
                f"warning: CLIP reads {self.alike} of {self.captions} different captions as the same text as another: "
                "the CLIP score cannot tell them apart; shorten them, or raise evaluator.max_tokens (source: train)"
            )
        return findings


def read_captions(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str]) -> CaptionReading:
    """Count the captions, all different, that a tokenizer cuts, and those that are the same after the cut."""
    limit = tokenizer.model_max_length
    cut, readings = 0, Counter[tuple[int, ...]]()
    for tokens in _tokens(tokenizer, captions):
        cut += len(tokens) > limit
        readings[tuple(tokens) if len(tokens) < limit else tuple(tokens[: limit - 1])] += 1  # then the end token
    alike = sum(n for n in readings.values() if n > 1)
    return CaptionReading(len(captions), limit, cut, alike)


def longest_caption(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str]) -> int:
    """Return the number of tokens of the longest caption, with the start and end tokens; 0 without captions."""
    return max(map(len, _tokens(tokenizer, captions)), default=0)


def _tokens(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str]) -> Iterator[list[int]]:
    """Yield the tokens of each caption, none of them cut."""
    for start in range(0, len(captions), CAPTIONS_AT_ONCE):
        yield from tokenizer(list(captions[start : start + CAPTIONS_AT_ONCE]), verbose=False).input_ids
