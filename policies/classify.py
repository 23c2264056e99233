"""Which lane a request queues in.

Floor: `policies`, pure. Lanes order the queue; they do not partition the engines (facts/routing.md: engines reserved
for short or long prompts are disastrous).
"""

from __future__ import annotations

from policies.types import Lane


def classify(
    prompt_tokens: int,
    threshold: int,
    *,
    asked: Lane | None,
    flex: bool,
    prompts: int,
    n: int,
    batch_prompts: int,
    batch_n: int,
) -> Lane:
    """The lane of a request: batch by wish or by shape, otherwise long above `threshold` tokens, otherwise short.

    `asked` (the client's header) only moves a request down: to batch, or from short to long; asking for short changes
    nothing. `flex`: the client asked for `service_tier: flex`. `batch_prompts` prompts in one request or more, or more
    than `batch_n` choices, are batch work by shape.
    """
    if flex or asked is Lane.BATCH or prompts >= batch_prompts or n > batch_n:
        return Lane.BATCH
    if prompt_tokens > threshold or asked is Lane.LONG:
        return Lane.LONG
    return Lane.SHORT
