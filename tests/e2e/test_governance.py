"""What records say of real answers: by which parameters, of which prompt, in which words; on both databases.

Floor: tests only. The engine is the simulated one, whose words, fingerprint and usage are those of vLLM's wire format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from benchmarks.engine.launch import Engine, start_engine
from tests.e2e.test_ledger import Books
from tests.router.gateway_process import configuration
from tests.servers import PostgresServer, start_postgres

STOP, WATCHED = "zyxstopzyx", "zyxwatchedzyx"
TOOL = {"name": "zyxtoolzyx", "parameters": {"type": "object", "properties": {}}}
SAMPLING = {"temperature": 0.5, "top_p": 0.9, "seed": 3}
USER = [{"role": "user", "content": "Say something."}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": USER, "max_tokens": 900, "stop": [STOP], "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": "none", "response_format": {"type": "text"},
    },
    "/v1/completions": {"prompt": "Once upon a time", "max_tokens": 900, "stop": [STOP]},
    "/v1/responses": {"input": "Say something.", "max_output_tokens": 900},
    "/v1/messages": {"messages": USER, "max_tokens": 900, "stop_sequences": [STOP]},
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.config.getoption("--engine") != "sim":
        pytest.skip("records are the same whatever engine answers")
    with start_engine("tiny") as made:
        yield made


@pytest.fixture(params=["sqlite", "postgres"])
def books(request: pytest.FixtureRequest, engine: Engine, tmp_path: Path) -> Iterator[Books]:
    database: PostgresServer | Path = start_postgres() if request.param == "postgres" else tmp_path / "ledger.db"
    made = Books(tmp_path, configuration({"e0": engine.url}), database)
    acme = made.config["tenants"]["acme"]
    acme.pop("limits")
    acme |= {"requests": {"max_tokens": 40}, "watch_words": [WATCHED]}
    made.config |= {
        "state": {"ledger_url": made.url},
        "ledger": {"spool_dir": str(tmp_path / "spool")},
        "governance": {"output": "all"},
    }
    try:
        yield made
    finally:
        made.stop()
        if isinstance(database, PostgresServer):
            database.stop()


def test_every_api_leaves_parameters_prompt_fingerprint_and_figures_of_its_answer(books: Books) -> None:
    gateway = books.start()
    with httpx2.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=60.0, trust_env=False) as client:
        client.headers["authorization"] = "Bearer acme-key"
        for path, body in BODIES.items():
            for stream in (False, True):
                answer = client.post(path, json={"model": "qwen", **SAMPLING, **body, "stream": stream})
                assert answer.status_code == 200, answer.text
    books.until(lambda: len(books.found("request")) == 2 * len(BODIES), "all are there")
    records = books.listed("--kind", "request", "--tenant", "acme")
    for record in records:
        given, output = record["parameters"], record["output"]
        assert {name: given[name] for name in SAMPLING} == SAMPLING
        assert given["max_tokens"] == 40, "the tenant's bound"
        assert output["seen"] == "whole"
        assert output["characters"] > 20
        assert output["scripts"] == {"latin": 1.0}
        assert output["shift"] == 0.0
        assert output["refusal"] is False
        if record["api"] in ("chat", "completions"):
            assert record["system_fingerprint"].startswith("vllm-")
            assert len(given["stop"]) == 1
    by_api = {api: [one["prompt_hash"] for one in records if one["api"] == api] for api in ("chat", "completions")}
    assert all(len(hashes) == 2 and len(set(hashes)) == 1 for hashes in by_api.values()), "a prompt has one hash"
    chat = next(one["parameters"] for one in records if one["api"] == "chat")
    assert (chat["tools"], chat["tool_choice"], chat["response_format"]) == (1, "none", "text")
    text = json.dumps(records)
    assert [word for word in (STOP, WATCHED, "zyxtoolzyx", "Say something") if word in text] == []
    assert books.metric('promptlane_output_looks_total{result="whole"}') == 2 * len(BODIES)
    assert "1 of 1 chains are whole" in books.command("verify")
    books.stop()
    tokens = sum(record["completion_tokens"] for record in records) / len(records)
    books.start()
    level = 'promptlane_output_level{measure="tokens",model="qwen",tenant="acme"}'
    assert books.metric(level) == pytest.approx(tokens), "distributions go on after a restart"
