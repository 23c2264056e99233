"""A body becomes an `InferenceRequest`: estimated tokens, prefix blocks, lane.

Floor: an adapter; the arithmetic is in `policies`. Long prompts are read and hashed off the event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.classify import classify
from policies.output_length import OutputLengths
from policies.prefix_blocks import BLOCK_BYTES, ChainMemo
from policies.tokens import TokenEstimator, needs_exact_count
from policies.types import InferenceRequest, Lane, Tenant
from router.counting import TokenCounter
from router.errors import BadRequest
from router.wire.openai import ApiSpec, Body, read_prompt
from router.wire.prompt import Prompt, Segments, digest_of

# Bodies above this are worked on off the event loop: reading and hashing take up to 6 ms a megabyte, and 5 ms is the
# most that other requests may wait for one (`make bench-loop`).
INLINE_BYTES = 256 * 1024
# How long such work may keep the interpreter from the loop, in seconds; Python's own 5 ms would be all that we allow.
SWITCH_SECONDS = 0.0005
# Of a prompt that may wait to be hashed until its request has ended, beside thousands of others.
_SHORT_BYTES = 1024
_LANES = frozenset(lane.value for lane in Lane)


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """The knobs of `classify` and of prefix blocks; sizes in bytes, `max_wait` in seconds per lane.

    `block_bytes` None: what stands for about 64 tokens of the model, as its estimator has learned.
    """

    long_prompt_tokens: int
    batch_prompts: int
    batch_n: int
    batch_header: str
    block_bytes: int | None
    default_output_tokens: int
    max_wait: Mapping[Lane, float]


@dataclass(slots=True, init=False)
class Measured:
    """The request as policies see it, and what calibration needs when the engine has told its own count.

    `output_bound`: tokens that the client allows per choice. `prompts`: how many the body has. `digest`: where records
    are kept the SHA-256 of the canonical prompt, or of a short one its pieces, for who hashes them off the event loop.
    """

    request: InferenceRequest
    text_bytes: int
    extra_tokens: int
    counted: bool
    output_bound: int | None
    prompts: int
    digest: bytes | Segments = field(repr=False)

    def __init__(
        self,
        request: InferenceRequest,
        text_bytes: int,
        extra_tokens: int,
        counted: bool,
        output_bound: int | None = None,
        prompts: int = 1,
        digest: bytes | Segments = b"",
    ) -> None:
        self.request = request
        self.text_bytes = text_bytes
        self.extra_tokens = extra_tokens
        self.counted = counted
        self.output_bound = output_bound
        self.prompts = prompts
        self.digest = digest


class Measurer:
    """Measures prompts. What it remembers (exact counts, chains, `lengths` of answers) outlives reloads."""

    def __init__(
        self,
        settings: MeasureSettings,
        counter: TokenCounter,
        chains: ChainMemo | None = None,
        lengths: OutputLengths | None = None,
        *,
        digests: bool = False,
    ) -> None:
        self.settings = settings
        self.lengths = lengths if lengths is not None else OutputLengths()
        self._counter = counter
        self._digests = digests
        # With a lock, as the chains of long bodies are made in other threads.
        self._chains = chains if chains is not None else ChainMemo(threading.Lock())

    async def measure(
        self,
        spec: ApiSpec,
        body: Body,
        size: int,
        *,
        tenant: Tenant,
        root: int,
        estimator: TokenEstimator,
        request_id: str,
        asked_lane: str | None,
        now: float,
    ) -> Measured:
        """`size`: bytes of the body. Raises BadRequest for a prompt of the wrong shape or an unknown lane."""
        text_block = self.settings.block_bytes or estimator.block_size.now
        prompt, blocks, block_bytes, digest = (
            self._examine(spec, body, root, text_block)
            if size <= INLINE_BYTES
            else await asyncio.to_thread(self._examine, spec, body, root, text_block)
        )
        estimate = estimator.estimate(prompt.text_bytes, prompt.extra_tokens)
        counted = needs_exact_count(
            prompt.text_bytes + prompt.extra_tokens,
            estimate,
            self.settings.long_prompt_tokens,
            estimator.unsure_factor,
        )
        tokens = await self._counter.count(prompt.texts) + prompt.extra_tokens if counted else estimate
        lane = self._lane(tokens, body, prompt.count, asked_lane)
        choices = max(1, body.n) * prompt.count  # every prompt has as many answers
        request = InferenceRequest(
            id=request_id,
            tenant=tenant.id,
            tier_priority=tenant.tier.priority,
            weight=tenant.weight,
            tier=tenant.tier,
            model=body.model,
            api=spec.name,
            lane=lane,
            prompt_tokens=tokens,
            max_output_tokens=self._expected_output(body, spec, tenant.id, choices),
            choices=choices,
            prefix_blocks=blocks,
            tokens_per_block=_tokens_per_block(tokens, prompt, block_bytes),
            stream=body.stream,
            arrived_at=now,
            deadline=now + self.settings.max_wait[lane],
            session=body.session,
        )
        bound = body.max_output_tokens
        return Measured(request, prompt.text_bytes, prompt.extra_tokens, counted, bound, prompt.count, digest)

    def learn_length(self, measured: Measured, completion_tokens: int, *, left: bool) -> None:
        """An answer had so many tokens, all choices together. `left`: its client went before the end."""
        request, bound = measured.request, measured.output_bound
        if not request.max_output_tokens:
            return  # of an API that generates nothing
        tokens = completion_tokens // request.choices
        cut = left or (bound is not None and tokens >= bound)
        self.lengths.observe(request.tenant, request.model, tokens, cut)

    def _examine(
        self, spec: ApiSpec, body: Body, root: int, text_block: int
    ) -> tuple[Prompt, tuple[int, ...], int, bytes | Segments]:
        """The prompt, its chain, the bytes of its blocks (64 token ids have 256, whatever text has), and its digest."""
        prompt = read_prompt(spec, body.fields)
        block_bytes = BLOCK_BYTES if prompt.ids and not prompt.text_bytes else text_block
        chain = self._chains.chain(root, prompt.segments, block_bytes)
        return prompt, chain, block_bytes, _digest(prompt) if self._digests else b""

    def _lane(self, tokens: int, body: Body, prompts: int, asked: str | None) -> Lane:
        if asked is not None and asked not in _LANES:
            raise BadRequest(f"The lane must be one of {', '.join(sorted(_LANES))}.", param=self.settings.batch_header)
        return classify(
            tokens,
            self.settings.long_prompt_tokens,
            asked=Lane(asked) if asked is not None else None,
            flex=body.flex,
            prompts=prompts,
            n=body.n,
            batch_prompts=self.settings.batch_prompts,
            batch_n=self.settings.batch_n,
        )

    def _expected_output(self, body: Body, spec: ApiSpec, tenant: str, choices: int) -> int:
        """Tokens the answer is expected to have: what such answers have had, within what the client allows."""
        if not spec.output_fields:
            return 0
        usual = self.settings.default_output_tokens
        return self.lengths.expect(tenant, body.model, body.max_output_tokens, choices, usual)


def _digest(prompt: Prompt) -> bytes | Segments:
    size = sum(map(len, prompt.segments))
    return tuple(prompt.segments) if size <= _SHORT_BYTES else digest_of(prompt.segments)


def _tokens_per_block(tokens: int, prompt: Prompt, block_bytes: int) -> float:
    size = sum(map(len, prompt.segments))
    return tokens * block_bytes / size if size else 0.0
