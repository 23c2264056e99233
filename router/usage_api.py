"""`GET /v1/usage`: what a tenant has used, for the tenant itself.

Floor: with `router.assembly`. The database is read in a thread of its own, one question at a time: nobody's request
waits for it, and however many ask, it is asked by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import msgspec

from router.database.errors import DatabaseAway
from router.errors import BadRequest, DatabaseUnavailable, InvalidKey, Overloaded
from router.tenants import Identity
from router.usage_report import BadSpan, Span, span, usage_lines, usage_row

if TYPE_CHECKING:  # with it SQLAlchemy is loaded
    from router.ledger.usage import Usage, UsageTables

_MOST_WAITING = 32  # questions: each takes milliseconds, but as long as `state.ledger_timeout` where the database hangs
_MOST_FIELDS = 16


class TenantUsage:
    """Of one process. `timeout`: seconds that a question may take, its wait for others included; `wall_clock`: Unix
    seconds."""

    def __init__(self, tables: UsageTables, timeout: float, wall_clock: Callable[[], float]) -> None:
        self._tables = tables
        self._timeout = timeout
        self._wall_clock = wall_clock
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="usage")

    async def answer(self, identity: Identity, query: bytes) -> bytes:
        """JSON for the tenant of the key, whatever is asked; of the models that the key may use. Raises InvalidKey,
        BadRequest, Overloaded or DatabaseUnavailable."""
        key = identity.key
        if key is None:  # an anonymous tenant's host answers anybody
            raise InvalidKey("Usage is shown to who has an API key.")
        wanted, by_day = self._read(query)
        found = await self._ask(identity.tenant.id, wanted)
        lines = usage_lines((one for one in found if key.allows_model(one.model)), by_day=by_day)
        return msgspec.json.encode({
            "object": "usage",
            "from": wanted.since.isoformat(),
            "to": wanted.until.isoformat(),
            "rows": [usage_row(line) for line in lines.only(identity.tenant.id)],
        })  # fmt: skip

    def close(self) -> None:
        """Whoever still waits is told so."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, query: bytes) -> tuple[Span, bool]:
        try:
            asked = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
        except ValueError:
            raise BadRequest("The query has too many fields.") from None
        by = asked.get("by", "total")
        if by not in ("total", "day"):
            raise BadRequest("Expected 'total' or 'day'.", param="by")
        try:
            today = datetime.fromtimestamp(self._wall_clock(), UTC).date()
            return span(asked.get("from"), asked.get("to"), today), by == "day"
        except BadSpan as error:
            raise BadRequest(f"This is no day: {error}.", param=error.field) from None

    async def _ask(self, tenant: str, wanted: Span) -> list[Usage]:
        if self._waiting >= _MOST_WAITING:
            raise Overloaded("Too many ask for usage at this moment.", code="usage_busy", retry_after=1.0)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(self._timeout):
                return await loop.run_in_executor(self._thread, self._tables.usage, *wanted.days, tenant)
        except (DatabaseAway, TimeoutError):
            raise DatabaseUnavailable("Usage cannot be read at this moment.", retry_after=5.0) from None
        finally:
            self._waiting -= 1
