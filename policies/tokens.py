"""How many tokens a prompt has: a calibrated guess from its bytes, and a memory of exact counts.

Floor: `policies`, pure. This file never tokenizes: the caller counts (off the event loop when the text is long) where
`needs_exact_count` says that a guess will not do, and keeps each message's count in a `CountMemo`.
"""

from __future__ import annotations

from collections import OrderedDict
from math import ceil, exp, log

from policies.block_size import BlockSize, fitting

# No tokenizer makes more tokens than there are bytes, and 12 bytes per token is beyond prose in any language (long
# runs of white space or of one character). Outside of these the report is about something else than this text.
MIN_BYTES_PER_TOKEN = 1.0
MAX_BYTES_PER_TOKEN = 12.0

# Below this the chat template's own tokens outweigh the text and would teach a wrong ratio (bytes).
MIN_OBSERVED_BYTES = 256

# Share of a new report, once some have been seen: about the last 20 prompts decide, so one odd prompt moves little.
SMOOTHING = 0.05

# A single report moves as if it were at most this factor away from what is believed, so a prompt of images or of
# base64 cannot throw the estimate off.
OUTLIER_FACTOR = 2.0

# Code, Chinese and English differ by about 2 in bytes per token under one tokenizer: an estimate further than that
# from the threshold is on the right side of it. Where reports agree with each other, less is enough: so many times what
# they are off on average, which is some three standard deviations, and never less than a chat template may add.
UNSURE_FACTOR = 2.0
LEAST_UNSURE_FACTOR = 1.1
UNSURE_DEVIATIONS = 4.0


class TokenEstimator:
    """Estimates tokens from UTF-8 bytes for one engine model, and learns from what its engines report.

    `block_size`: of the prefix blocks of its prompts, so that each stands for about as many tokens. `unsure_factor`:
    the factor by which an estimate may be wrong, by how far the last reports were off; at first `UNSURE_FACTOR`.
    """

    __slots__ = ("_off", "_reports", "block_size", "bytes_per_token", "unsure_factor")

    def __init__(self, bytes_per_token: float = 4.0) -> None:
        self.bytes_per_token = _bounded(bytes_per_token)
        self.block_size = BlockSize(fitting(self.bytes_per_token))
        self.unsure_factor = UNSURE_FACTOR
        self._reports = 0
        self._off = log(UNSURE_FACTOR) / UNSURE_DEVIATIONS  # reports from what was believed, in logarithms, on average

    def estimate(self, text_bytes: int, extra_tokens: int = 0) -> int:
        """Tokens of `text_bytes` of prompt text, rounded up, and `extra_tokens` for what is not text."""
        return ceil(text_bytes / self.bytes_per_token) + extra_tokens

    def observe(self, text_bytes: int, prompt_tokens: int) -> None:
        """Learn from an engine's `usage.prompt_tokens` for a prompt of `text_bytes` bytes of text.

        Meant for prompts of text alone; short ones and empty reports are passed over.
        """
        if text_bytes < MIN_OBSERVED_BYTES or prompt_tokens <= 0:
            return
        believed = self.bytes_per_token
        seen = min(max(text_bytes / prompt_tokens, believed / OUTLIER_FACTOR), believed * OUTLIER_FACTOR)
        self._learn_spread(abs(log(seen / believed)))
        self._reports += 1
        share = max(SMOOTHING, 1 / (self._reports + 1))  # the first reports count more than the configured guess
        self.bytes_per_token = _bounded(believed + share * (seen - believed))
        self.block_size.follow(self.bytes_per_token)

    def _learn_spread(self, off: float) -> None:
        self._off += SMOOTHING * (off - self._off)
        factor = exp(UNSURE_DEVIATIONS * self._off)
        self.unsure_factor = min(max(factor, LEAST_UNSURE_FACTOR), UNSURE_FACTOR)


class CountMemo:
    """Exact counts by message hash. Holds at most `capacity`; the least recently used goes first."""

    __slots__ = ("_capacity", "_counts")

    def __init__(self, capacity: int = 65536) -> None:
        self._capacity = capacity
        self._counts: OrderedDict[int, int] = OrderedDict()

    def get(self, key: int) -> int | None:
        count = self._counts.get(key)
        if count is not None:
            self._counts.move_to_end(key)
        return count

    def put(self, key: int, count: int) -> None:
        self._counts[key] = count
        self._counts.move_to_end(key)
        if len(self._counts) > self._capacity:
            self._counts.popitem(last=False)

    def __len__(self) -> int:
        return len(self._counts)


def needs_exact_count(text_bytes: int, estimate: int, threshold: int, unsure_factor: float = UNSURE_FACTOR) -> bool:
    """Whether a guess could put a prompt on the wrong side of `threshold` tokens.

    A text of no more bytes than `threshold` cannot have more tokens; an estimate further than `unsure_factor` from
    the threshold is trusted.
    """
    if text_bytes <= threshold:
        return False
    return threshold / unsure_factor <= estimate <= threshold * unsure_factor


def _bounded(bytes_per_token: float) -> float:
    return min(max(bytes_per_token, MIN_BYTES_PER_TOKEN), MAX_BYTES_PER_TOKEN)
