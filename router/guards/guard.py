"""A tenant's rules at work: on the prompt of each request, and on its answer.

Floor: an adapter used by the gateway's line. Long bodies are read off the event loop, and searches in them let other
threads run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from router.errors import BadRequest
from router.guards.answers import INLINE_BYTES, AnswerGuard
from router.guards.asking import ask_presidio, ask_services
from router.guards.parts import Collector, Examiner, suspicious
from router.guards.rules import Findings, Rule, Side, Verdict, searches
from router.metrics import Metrics
from router.wire.fields import Fields
from router.wire.openai import ApiSpec, Body
from router.wire.texts import Replacer, examined, ids_in
from router.wire.unseen import refuse_unseen

_log = logging.getLogger("promptlane.guards")

# APIs in which no model sees what is asked.
_HARMLESS: Final = ("/tokenize", "/detokenize")


class TenantGuard:
    """The rules of one tenant; made once per configuration. `clock`: monotonic seconds."""

    def __init__(self, tenant: str, rules: Sequence[Rule], metrics: Metrics, clock: Callable[[], float]) -> None:
        self.tenant = tenant
        self.metrics = metrics
        self.clock = clock
        self.input = tuple(rule for rule in rules if Side.INPUT in rule.sides)
        self.output = tuple(rule for rule in rules if Side.OUTPUT in rule.sides)
        self._searches = searches(self.input)
        self._in_own = searches(self.input, of_users=False)
        self._found_in_answers = searches(self.output)

    async def examine(self, spec: ApiSpec, body: Body, size: int) -> tuple[Body, Findings]:
        """The body with what the rules take out of it, and what they found: it may be that nothing should pass. Raises
        BadRequest for a field that cannot be examined."""
        findings = Findings(Side.INPUT)
        began = self.clock()
        try:
            if self.output and spec.output_fields:
                refuse_unseen(spec, body, self.output_acts, self.asks_about_answers)
            fields = await self._examine(spec, body.fields, size, findings) if self.input else body.fields
        finally:
            self.metrics.observe("promptlane_guard_seconds", self.clock() - began, self.tenant, Side.INPUT.value)
        return (body if fields is body.fields else replace(body, fields=fields)), findings

    @property
    def output_acts(self) -> bool:
        """Whether a rule for answers changes any."""
        return any(rule.acts for rule in self.output)

    @property
    def asks_about_answers(self) -> bool:
        """Whether a rule needs a whole answer, to ask somebody about it."""
        return any(rule.people is not None for rule in self.output)

    def answer(self, spec: ApiSpec) -> AnswerGuard | None:
        """For one answer; None where no rule looks at it."""
        if not self.output or not spec.output_fields:
            return None
        return AnswerGuard(spec, self.output, self._found_in_answers, self.clock)

    def note_answer(self, answer: AnswerGuard) -> list[Verdict]:
        """The same of an answer that is over."""
        if answer.seconds is not None:
            self.metrics.observe("promptlane_guard_seconds", answer.seconds, self.tenant, Side.OUTPUT.value)
        return self.note(answer.findings)

    def note(self, findings: Findings) -> list[Verdict]:
        """Counts and logs what was found, by the names of the rules alone."""
        of = {"tenant": self.tenant}
        for failure in findings.failures:
            self.metrics.add("promptlane_guard_failures", self.tenant, failure.rule, failure.side.value, failure.cause)
            names = (failure.rule, self.tenant, failure.side.value, failure.cause)
            _log.warning("rule %s of %s could not look at an %s: %s", *names, extra=of)
        verdicts = list(findings.verdicts())
        for verdict in verdicts:
            labels = (self.tenant, verdict.rule, verdict.side.value, verdict.action.value)
            self.metrics.add("promptlane_guard_verdicts", *labels, amount=verdict.found)
            _log.info("rule %s of %s: %s, %s, %d times", labels[1], *(labels[0], *labels[2:], verdict.found), extra=of)
        return verdicts

    async def _examine(self, spec: ApiSpec, fields: Fields, size: int, findings: Findings) -> Fields:
        if size <= INLINE_BYTES:
            fields = self._search(spec, fields, findings)
        else:
            fields = await asyncio.to_thread(self._search, spec, fields, findings)
        if not self._asks or findings.blocked_by is not None:
            return fields
        texts = Collector()
        examined(fields, texts)
        said = [*texts.users, *texts.own]
        await ask_services(self.input, said, findings)
        changed = await ask_presidio(self.input, said, findings)
        return examined(fields, Replacer(changed)) if changed else fields

    @property
    def _asks(self) -> bool:
        return any(rule.service is not None or rule.people is not None for rule in self.input)

    def _search(self, spec: ApiSpec, fields: Fields, findings: Findings) -> Fields:
        if spec.path not in _HARMLESS and any(rule.acts for rule in self.input) and (name := ids_in(fields)):
            raise BadRequest(f"'{name}' must be text: token ids cannot be examined.", param=name)
        if not self._searches:
            return fields
        seen = Collector()
        examined(fields, seen)
        users = [*seen.users, *seen.names, *seen.joined]
        if not suspicious(users, self._searches) and not suspicious(seen.own, self._in_own):
            return fields
        return examined(fields, Examiner(self._searches, self._in_own, findings))
