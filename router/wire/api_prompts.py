"""What makes the prompt of each API: its fields in the order of an engine's template, and who reads them.

Floor: sans-IO. Settings, tools and documents stand before what they are bound to (`router.wire.prompt`).
"""

from __future__ import annotations

from typing import Final

from router.wire.prompt_fields import (
    Reader,
    ahead,
    effort,
    embeds,
    inputs,
    kept_tokens,
    opaque,
    options,
    present,
    prompts,
    setting,
    thinking,
    unless,
)
from router.wire.turns import instructions, messages

PromptFields = tuple[tuple[str, Reader], ...]

# What changes a rendered prompt from its beginning on, as vLLM 0.32 renders it; templates see no other field.
# `response_format`, `structured_outputs` and `tool_choice` are for the sampler (one renderer, Kimi K3's, shows them to
# the model as well); `add_generation_prompt` and `continue_final_message` change the end only. A LoRA adapter is a
# model of its own name, and that is in the chain's root.
_MEDIA_OPTIONS: Final[PromptFields] = (("mm_processor_kwargs", options), ("media_io_kwargs", options))
_TEMPLATE: Final[PromptFields] = (("chat_template", setting), ("chat_template_kwargs", options), *_MEDIA_OPTIONS)
CHAT: Final[PromptFields] = (
    *_TEMPLATE,
    ("reasoning_effort", setting),
    ("add_special_tokens", unless(b"false")),
    ("truncate_prompt_tokens", kept_tokens),
    ("documents", ahead),
    ("tools", ahead),
    ("messages", messages),
)
COMPLETION: Final[PromptFields] = (
    ("add_special_tokens", unless(b"true")),
    ("truncate_prompt_tokens", kept_tokens),
    ("suffix", present),
    ("prompt_embeds", embeds),
    ("prompt", prompts),
    ("suffix", opaque),
)
RESPONSES: Final[PromptFields] = (
    *_TEMPLATE,
    ("reasoning", effort),
    ("tools", ahead),
    ("instructions", instructions),
    ("previous_response_id", opaque),  # what it stands for is between the two
    ("previous_input_messages", opaque),
    ("input", messages),
)
CLAUDE: Final[PromptFields] = (
    *_TEMPLATE,
    ("output_config", effort),
    ("thinking", thinking),
    ("tools", ahead),
    ("system", instructions),
    ("messages", messages),
)
EMBEDDINGS: Final[PromptFields] = (*_TEMPLATE, ("add_special_tokens", setting), ("input", inputs), ("messages", inputs))
# The query is the beginning of every pair that it makes with a document.
_PAIRS: Final[PromptFields] = (
    ("instruction", setting),
    ("chat_template_kwargs", options),
    ("mm_processor_kwargs", options),
)
RERANK: Final[PromptFields] = (*_PAIRS, ("query", opaque), ("documents", prompts))
SCORE: Final[PromptFields] = (
    *_PAIRS,
    *((name, prompts) for name in ("text_1", "data_1", "queries", "text_2", "data_2", "documents", "items")),
)
# Nothing that a model sees: counted as prompts, they would be load that is none, and leave prefixes in the books that
# are in no cache.
NO_PROMPT: Final[PromptFields] = ()
