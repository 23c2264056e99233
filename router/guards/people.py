"""Microsoft Presidio: names, places and whatever else its recognisers know, where it is installed.

Floor: an adapter around a thread. Presidio computes for milliseconds to seconds and cannot be interrupted: it has a
thread of its own, what waits for it has a time limit, and a queue that is full is as good as an answer that is late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

# Requests that wait for the one thread; each has its time limit anyway.
_WAITING: Final = 32
Span = tuple[int, int, str]


class PresidioFailed(Exception):
    """No verdict. `cause`: `timeout` or `presidio`."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class NotInstalled(Exception):
    """Presidio, or the spaCy model that the rule names, is not here; the message says what to install."""


class People:
    """`analyze`: of a text, what was found: beginning, end, entity. It is called in a thread of its own, one text at a
    time, and ends with this object. `seconds`: what one request may take."""

    def __init__(self, analyze: Callable[[str], Sequence[Span]], seconds: float) -> None:
        self._analyze = analyze
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="presidio")
        self._waiting = 0

    async def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """For each text its spans. Raises PresidioFailed."""
        if self._waiting >= _WAITING:
            raise PresidioFailed("timeout")
        self._waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._all, list(texts))
        work.add_done_callback(self._done)
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(work)
        except TimeoutError:
            raise PresidioFailed("timeout") from None
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError):  # of a recogniser, or of its model
            raise PresidioFailed("presidio") from None

    def _all(self, texts: list[str]) -> list[list[Span]]:
        return [list(self._analyze(text)) for text in texts]

    def _done(self, work: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()  # whoever asked may have gone


def presidio(
    language: str, model: str, entities: Sequence[str] | None, score: float
) -> Callable[[str], Sequence[Span]]:
    """Its analyzer with this spaCy model. Raises NotInstalled."""
    try:
        import spacy.util
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ImportError:
        raise NotInstalled("expected Presidio to be installed: pip install 'promptlane[presidio]'") from None
    if not (spacy.util.is_package(model) or Path(model).is_dir()):
        raise NotInstalled(f"expected a spaCy model that is installed, not {model}: python -m spacy download {model}")
    models = [{"lang_code": language, "model_name": model}]
    provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models})
    engine = AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=[language])
    wanted = list(entities) if entities is not None else None

    def analyze(text: str) -> list[Span]:
        found = engine.analyze(text, language=language, entities=wanted, score_threshold=score)
        return [(one.start, one.end, one.entity_type.lower().replace("_", "-")) for one in found]

    return analyze
