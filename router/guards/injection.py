"""Prompts that try to override their instructions: the words that such attempts have in common.

Floor: sans-IO. A net for what is tried every day, in English, German, French and Spanish, and for the marks by which
chat templates part roles, which have no business in a user's text. Not a proof against somebody who rephrases: for that
there is `service`. A tenant's own instructions (system and developer messages) may say such things and are not
examined.
"""

from __future__ import annotations

from typing import Final

import regex

from router.guards.finder import Finder
from router.guards.folding import SKELETON

_GAP: Final = r"[\W_]{1,8}"
_ALL: Final = rf"(?:(?:all|any|every|each|of|the|these|those|this|that|your|my|our|its){_GAP}){{0,4}}"
_BEFORE: Final = r"(?:previous|prior|preceding|above|earlier|former|foregoing|initial|original|system|existing|current)"
_RULES: Final = (
    r"(?:instructions?|prompts?|rules?|directions?|directives?|commands?|guidelines?|constraints?|messages?|context"
    r"|polic(?:y|ies)|programming|training|restrictions?|orders?)"
)
_DROP: Final = (
    r"(?:ignore|disregard|forget|bypass|override|overrule|neglect|skip|discard|do not (?:follow|obey)"
    r"|stop (?:following|obeying))"
)
_SOME: Final = rf"(?:\w{{1,16}}{_GAP}){{0,4}}"
_PATTERNS: Final = (
    rf"{_DROP}{_GAP}{_ALL}{_BEFORE}{_GAP}(?:\w{{1,16}}{_GAP}){{0,2}}{_RULES}",
    rf"{_DROP}{_GAP}(?:all|any|every|your)(?:{_GAP}(?:of|the|your|these|other)){{0,3}}{_GAP}{_RULES}",
    rf"{_DROP}{_GAP}(?:everything|all|anything|what(?:ever)?)(?:{_GAP}\w{{1,16}}){{0,5}}{_GAP}"
    r"(?:above|before|previously|earlier)",
    rf"(?:reveal|show|print|repeat|output|display|tell me|give me|leak|dump|expose){_GAP}(?:me{_GAP})?"
    rf"(?:(?:all|the|of|your|exact|full|whole|entire|complete|hidden|secret){_GAP}){{1,5}}"
    rf"(?:system|initial|original|hidden|secret){_GAP}(?:prompts?|instructions?|messages?)",
    rf"you{_GAP}are{_GAP}(?:now|no longer){_GAP}{_SOME}"
    r"(?:dan|jailbroken|unrestricted|unfiltered|uncensored|developer mode|bound by|restricted by|limited by)",
    rf"(?:enable|enter|activate|switch to){_GAP}(?:\w{{1,16}}{_GAP}){{0,2}}"
    rf"(?:developer|debug|god|jailbreak|dan|admin|sudo|unrestricted){_GAP}mode",
    rf"(?:act|behave|respond|answer|pretend){_GAP}{_SOME}"
    rf"(?:without|(?:have|has|had|with){_GAP}no){_GAP}(?:\w{{1,16}}{_GAP}){{0,2}}"
    r"(?:restrictions?|filters?|rules?|limits?|limitations?|guidelines?|censorship)",
    rf"(?:ignorier(?:e|en|t)?|vergiss|missachte){_GAP}{_SOME}"
    r"(?:anweisung(?:en)?|instruktion(?:en)?|regeln|vorgaben|befehle)",
    rf"(?:ignore[sz]?|oublie[sz]?){_GAP}{_SOME}(?:instructions|consignes|regles|directives){_GAP}"
    r"(?:precedentes|anterieures|ci-dessus|initiales)",
    rf"(?:ignora|ignore|olvida|olvide){_GAP}{_SOME}(?:instrucciones|reglas|ordenes|indicaciones){_GAP}"
    r"(?:anteriores|previas|iniciales|de arriba)",
    r"<\|(?:im_start|im_end|im_sep|system|user|assistant|endoftext|begin_of_text|end_of_text|start_header_id"
    r"|end_header_id|eot_id|eom_id|python_tag|start|end|message|channel|return|call|constrain)\|>",
    r"</?(?:start_of_turn|end_of_turn)>|\[/?inst\]|<</?sys>>|\[/?system_prompt\]|\[available_tools\]",
)
# Where one may begin: found by this first, which costs half of looking for all.
_LEADS: Final = (
    r"\b(?:ignor|disregard|forget|bypass|overr|neglect|skip|discard|do not|stop|reveal|show|print|repeat|output|display"
    r"|tell me|give me|leak|dump|expose|you|enable|enter|activate|switch to|act|behave|respond|answer|pretend|vergiss"
    r"|missachte|oublie|olvid)|[<\[]"
)
# The longest match of any, and the character behind it.
_REACH: Final = 200


def injection() -> Finder:
    """Finds any of them."""
    leads = regex.compile(_LEADS)
    return Finder("redacted", regex.compile("|".join(_PATTERNS)), _REACH, SKELETON, leads=leads, of_users=True)
