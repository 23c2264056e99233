"""What operators see of several workers is one gateway's: one access log, one set of metrics."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.front import until
from tests.e2e.workers import ask_anew, running_crew

REQUESTS = 20
SLO = {"silver": {"slo": {"ttft_seconds": 60}}}


async def test_all_workers_write_one_access_log_and_count_as_one(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    with running_crew(2, server={"access_log": str(file)}) as crew:
        await crew.all_serve()
        await crew.serve((0,), tiers=SLO)
        await crew.owner()
        assert await ask_anew(crew, REQUESTS, stream=True) == [200] * REQUESTS

        async def counted() -> bool:
            return await crew.metric("promptlane_access_log_lines_total", result="written") == REQUESTS

        await until("all lines are written", counted)
        for objective in ("ttft", "availability"):
            good = await crew.metric("promptlane_slo_requests_total", objective=objective, result="good")
            assert good == REQUESTS
        assert await crew.metric("promptlane_slo_target_share", objective="ttft") == 0.95
        assert await crew.metric("promptlane_endpoint_status", pool=crew.pool) == 1.0, "one endpoint, one status"
        assert await crew.metric("promptlane_output_token_seconds_count") == REQUESTS
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({line["request_id"] for line in lines}) == len(lines) == REQUESTS
    assert {line["endpoint"] for line in lines} == {"e0"}
