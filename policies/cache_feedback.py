"""What an engine says of its cache against what was predicted: how much of its capacity the index may assume.

Floor: `policies`, pure. An index that is too large is the costliest mistake there is (facts/routing.md: 20 % too large
took goodput from .82 to .22), and nobody can know the size exactly: what a block stands for is an estimate, the engine
may run other work, old engines do not tell. So every answer that reports `cached_tokens` moves a factor on the index's
capacity: down fast when a block was believed to be there that was not, up slowly when more was there than believed.
Engines that report nothing per request are judged by their scraped counters.
"""

from __future__ import annotations

from dataclasses import dataclass

# A report this close to the prediction is right: engines report whole blocks of up to 512 tokens of theirs, and what a
# block of ours stands for is an average. The share is of the prompt.
TOLERANCE_TOKENS = 128
TOLERANCE_SHARE = 0.03

# The same for a reading of the counters, which lag behind what was sent (share of the prompts' tokens).
SCRAPE_TOLERANCE = 0.1

# How far one phantom hit moves the factor towards what the engine can at most hold, and one missed hit in the other
# direction: ten to one, as phantom hits cost far more than missed ones. Missed hits with no phantom hit between them
# say that the index is far too small, so every `STREAK` of them count one `GROW` more than the ones before, up to
# `GROW_MOST`: where little is shared there may be ten in an hour.
SHRINK = 0.1
GROW = 0.01
STREAK = 3
GROW_MOST = 0.05

# Bounds of the factor. Even a tenth of a cache knows the busiest prefixes; above 1.5 the engine's own figure or the
# calibration of tokens must be wrong, and an index that large would be a guess.
LEAST_FACTOR = 0.05
MOST_FACTOR = 1.5

# What one answer counts in the running sums: about the last 200 decide.
SMOOTHING = 0.005

# Affinity is called useless when at least this many answers were judged, at least this share of their prompt tokens
# was predicted to be cached, and engines found less than half of that.
JUDGED = 50
PREDICTED_SHARE = 0.1
FOUND_SHARE = 0.5


@dataclass(slots=True)
class CacheFeedback:
    """One endpoint's record. `factor`: of the capacity that the index would have by the engine's figures.

    `prompt`, `predicted`, `found`: running means of tokens per judged answer (or reading of the counters, where answers
    say nothing). `judged`: how many there were. `reports`: whether answers say what was cached.
    """

    factor: float = 1.0
    prompt: float = 0.0
    predicted: float = 0.0
    found: float = 0.0
    judged: int = 0
    reports: bool = False
    _missed: int = 0  # since the last phantom hit
    _queries: float | None = None
    _hits: float | None = None
    _predicted_since: float = 0.0
    _prompt_since: float = 0.0

    def dispatched(self, prompt: int, predicted: int) -> None:
        """A request was sent with this prediction (tokens); the sums are what scraped counters are compared with."""
        self._prompt_since += prompt
        self._predicted_since += predicted

    def answered(self, prompt: int, predicted: float, found: int) -> int:
        """An answer tells how many of its `prompt` tokens were `found` in the cache. Returns -1 for a phantom hit, 1
        for a missed one, 0 where the prediction was right."""
        self.reports = True
        self._judge(prompt, predicted, found)
        return _compare(prompt, predicted, found)

    def phantom(self, at_most: float) -> None:
        """A block that the index had was gone. `at_most`: the factor at which the index would just not have had it."""
        self._missed = 0
        target = max(LEAST_FACTOR, min(at_most, self.factor))
        self.factor += SHRINK * (target - self.factor)

    def missed(self) -> None:
        """The engine had blocks that the full index had let go."""
        step = min(GROW * (1 + self._missed // STREAK), GROW_MOST)
        self._missed += 1
        self.factor = min(MOST_FACTOR, self.factor * (1 + step))

    def scraped(self, queries: float | None, hits: float | None) -> int:
        """The engine's counters of prompt tokens looked up and found, both since its start. Returns as `answered` for
        the time since the last reading; 0 when answers report for themselves or nothing can be said."""
        before_queries, before_hits = self._queries, self._hits
        predicted, prompt = self._predicted_since, self._prompt_since
        if queries is None or hits is None:
            return 0
        if before_queries is None or before_hits is None or queries < before_queries or hits < before_hits:
            self._restart(queries, hits)
            return 0
        asked = queries - before_queries
        if asked <= 0 or prompt <= 0:
            return 0  # nothing was served: wait for more
        self._restart(queries, hits)
        if self.reports:
            return 0
        # The engine may have served others too, and its counters lag: shares are compared, not tokens.
        foreseen, found = min(prompt, predicted), prompt * min(1.0, (hits - before_hits) / asked)
        self._judge(prompt, foreseen, found)
        return _compare(prompt, foreseen, found, share=SCRAPE_TOLERANCE)

    def _judge(self, prompt: float, predicted: float, found: float) -> None:
        share = max(SMOOTHING, 1 / (self.judged + 1))
        self.judged += 1
        self.prompt += share * (prompt - self.prompt)
        self.predicted += share * (predicted - self.predicted)
        self.found += share * (found - self.found)

    def _restart(self, queries: float, hits: float) -> None:
        self._queries, self._hits = queries, hits
        self._predicted_since = self._prompt_since = 0.0

    @property
    def useless(self) -> bool:
        """Whether predictions are far from what the engine finds: something about prompts or engine is not as thought
        (a template that changes the beginning, prefix caching switched off, another router in front of the engine)."""
        worth = self.predicted >= PREDICTED_SHARE * self.prompt > 0
        return self.judged >= JUDGED and worth and self.found < FOUND_SHARE * self.predicted


def _compare(prompt: float, predicted: float, found: float, share: float = TOLERANCE_SHARE) -> int:
    tolerance = max(TOLERANCE_TOKENS, share * prompt)
    if found < predicted - tolerance:
        return -1
    return 1 if found > predicted + tolerance else 0
