"""The engine's HTTP face: every route of the captured server that a gateway may meet, as a raw ASGI app.

Floor: assembles the other rooms. One request: read the body, record it, find the route, let an arrival fault happen,
answer; every `Refusal` becomes bytes here and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from benchmarks.engine.asgi import Receive, Request, Send, read_all
from benchmarks.engine.bodies import (
    AnyBody,
    ChatBody,
    CompletionBody,
    CountBody,
    DetokenizeBody,
    EmbeddingBody,
    MessagesBody,
    RerankBody,
    ResponsesBody,
    ScoreBody,
    TokenizeBody,
    check_model,
    check_salt,
    read_body,
)
from benchmarks.engine.config import EngineConfig
from benchmarks.engine.dialects import MessagesWriter, ResponsesWriter, token_strings
from benchmarks.engine.errors import Refusal, Unrouted, failed_fields
from benchmarks.engine.exchange import Prefill, TextExchange, engine_error
from benchmarks.engine.faults import Fault, FaultKind, FaultSwitch
from benchmarks.engine.metrics import EngineMetrics
from benchmarks.engine.operator_routes import Handler, OperatorRoutes
from benchmarks.engine.pooling import check_embedding, embeddings, rerank, rerank_prompts, score, score_pairs, texts_of
from benchmarks.engine.prepare import Preparer, chat_ids, detokenized, messages_chat
from benchmarks.engine.recorder import Recorder
from benchmarks.engine.runtime import Runtime
from benchmarks.engine.text import encode, render_chat
from benchmarks.engine.wire import ChatWriter, Writer, to_json
from benchmarks.engine.wire_completion import CompletionWriter


class EngineApp:
    """`on_refuse` and `on_accept` close and open the main port: the server's business (`server.py`)."""

    def __init__(self, config: EngineConfig, on_refuse: Callable[[], None], on_accept: Callable[[], None]) -> None:
        self.config = config
        self.metrics = EngineMetrics(config)
        self.faults = FaultSwitch()
        self.runtime = Runtime(config, self.metrics, self.faults)
        self.recorder = Recorder()
        self._prepare = Preparer(config, time.time)
        self._fault_changed = asyncio.Event()
        self._inference = self._inference_routes()
        operator = OperatorRoutes(self.runtime, self.recorder, self._fault_changed.set, on_refuse, on_accept)
        self._routes = self._inference | operator.routes()

    def _inference_routes(self) -> dict[str, dict[str, Handler]]:
        text: dict[str, Handler] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._completion,
            "/v1/responses": self._responses,
            "/v1/messages": self._messages,
            "/v1/messages/count_tokens": self._count_tokens,
        }
        vectors: dict[str, Handler] = {
            "/v1/embeddings": self._embeddings,
            "/v1/rerank": self._rerank,
            "/rerank": self._rerank,
            "/v1/score": self._score,
            "/score": self._score,
        }
        computed = {"text": text, "vectors": vectors, "both": text | vectors}[self.config.computes]
        posts = computed | {"/tokenize": self._tokenize, "/detokenize": self._detokenize}
        return {path: {"POST": handler} for path, handler in posts.items()}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body = await read_all(receive)
        if body is None:
            return
        request = Request(scope, body, receive, send)
        begun = time.monotonic()
        record = self._record(request, begun)
        try:
            await self._answer(request)
        finally:
            request.release()
            ended = record["ended"] = time.monotonic()
            record["told"] = request.told
        seconds = ended - begun
        route = request.path if request.path in self._routes else "none"
        self.metrics.observe_http(route, request.method, request.status, seconds, len(body), request.sent)

    def _record(self, request: Request, begun: float) -> dict[str, Any]:
        if request.path in self._inference or request.path not in self._routes:
            return self.recorder.add(
                request.method, request.path, request.raw_headers, request.body, time.time(), begun
            )
        return {}

    async def _answer(self, request: Request) -> None:
        try:
            await self._handler(request)(request)
        except Unrouted as error:
            await request.json(error.status, {"detail": error.detail})
        except Refusal as refusal:
            anthropic = request.path.startswith("/v1/messages")
            await request.json(refusal.status, refusal.anthropic_body() if anthropic else refusal.body())

    def _handler(self, request: Request) -> Handler:
        methods = self._routes.get(request.path)
        if methods is None:
            raise Unrouted(404)
        if request.method not in methods:
            raise Unrouted(405)
        return methods[request.method]

    # Text

    async def _chat(self, request: Request) -> None:
        body = self._read(ChatBody, request)
        answer = self._prepare.chat(body, request.request_id, _priority(request))
        await self._exchange(request, body.stream, ChatWriter(answer), answer)

    async def _completion(self, request: Request) -> None:
        body = self._read(CompletionBody, request)
        answer = self._prepare.completion(body, request.request_id, _priority(request))
        await self._exchange(request, body.stream, CompletionWriter(answer), answer)

    async def _responses(self, request: Request) -> None:
        body = self._read(ResponsesBody, request)
        answer = self._prepare.responses(body, request.request_id, _priority(request))
        await self._exchange(request, body.stream, ResponsesWriter(answer, body.model_dump(exclude_none=True)), answer)

    async def _messages(self, request: Request) -> None:
        body = self._read(MessagesBody, request)
        answer = self._prepare.messages(body, request.request_id, _priority(request))
        await self._exchange(request, body.stream, MessagesWriter(answer), answer)

    async def _exchange(self, request: Request, stream: bool, writer: Writer, answer: Any) -> None:
        self.runtime.admit(len(answer.choices))
        fault = await self._arrival_fault(request)
        if not request.gone.is_set():
            await TextExchange(self.runtime, request, answer, writer, stream, fault).run()

    def _read(self, kind: type[AnyBody], request: Request) -> AnyBody:
        body = read_body(kind, request.headers.get("content-type", ""), request.body)
        check_model(body, self.config.model)
        check_salt(body)
        return body

    # Faults

    async def _arrival_fault(self, request: Request) -> Fault | None:
        """Play what happens before an answer begins; returns what is left to happen in it.

        A request that is hung comes back, with `request.gone` set or the fault over.
        """
        fault = self.faults.claim(request.path, time.monotonic())
        if fault is None:
            return None
        if fault.kind is FaultKind.HANG:
            await self._hang(request)
            return None
        if fault.kind is FaultKind.ERROR and fault.after_chunks is None:
            raise engine_error(fault)
        if fault.kind is FaultKind.DIE and fault.after_chunks == 0:
            await request.die()
        return fault

    async def _hang(self, request: Request) -> None:
        request.watch(self._fault_changed.set)
        while self.faults.active(time.monotonic()) is FaultKind.HANG and not request.gone.is_set():
            self._fault_changed.clear()
            await self._fault_changed.wait()

    async def _plain(self, request: Request, value: Any, fault: Fault | None) -> None:
        """An answer that is no text: a fault inside it cuts it or keeps it back."""
        if fault is not None and fault.kind is FaultKind.SILENT:
            request.watch()
            await request.gone.wait()
        elif not request.gone.is_set():
            dies = fault is not None and fault.kind is FaultKind.DIE
            await request.whole(200, to_json(value), b"application/json", dies=dies)

    # Not text

    async def _embeddings(self, request: Request) -> None:
        body = self._read(EmbeddingBody, request)
        check_embedding(body)
        prompts = texts_of(body.input)

        def answer() -> dict[str, Any]:
            created, request_id = self._prepare.created(), self._id(request)
            return embeddings(body, prompts, id=request_id, model=self.config.model, created=created)

        await self._pooled(request, body, prompts, answer)

    async def _rerank(self, request: Request) -> None:
        body = self._read(RerankBody, request)
        prompts = rerank_prompts(body)
        await self._pooled(
            request, body, prompts, lambda: rerank(body, prompts, id=self._id(request), model=self.config.model)
        )

    async def _score(self, request: Request) -> None:
        body = self._read(ScoreBody, request)
        pairs = score_pairs(body)

        def answer() -> dict[str, Any]:
            return score(pairs, id=self._id(request), model=self.config.model, created=self._prepare.created())

        await self._pooled(request, body, [left + right for left, right in pairs], answer)

    async def _pooled(
        self, request: Request, body: Any, prompts: list[list[int]], answer: Callable[[], dict[str, Any]]
    ) -> None:
        sequences = self._prepare.prefills(prompts, body)
        self.runtime.admit(len(sequences))
        fault = await self._arrival_fault(request)
        if request.gone.is_set():
            return
        prefill = Prefill(self.runtime, sequences)
        if sequences and not await prefill.run(request):
            return
        if prefill.aborted:
            raise Refusal(500, "The request was aborted.")
        await self._plain(request, answer(), fault)

    def _id(self, request: Request) -> str:
        return request.request_id or self._prepare.new_id()

    async def _count_tokens(self, request: Request) -> None:
        body = self._read(CountBody, request)
        ids = encode(render_chat(messages_chat(body), tools=body.tools))
        await self._plain(request, {"input_tokens": len(ids)}, await self._arrival_fault(request))

    async def _tokenize(self, request: Request) -> None:
        body = self._read(TokenizeBody, request)
        if body.messages is None and body.prompt is None:
            missing = {"type": "missing", "loc": ("prompt",), "msg": "Field required", "input": {}}
            raise failed_fields([missing])
        tokens = encode(body.prompt or "") if body.messages is None else chat_ids(body)
        strings = token_strings(tokens) if body.return_token_strs else None
        length = self.config.context_limit
        value = {"count": len(tokens), "max_model_len": length, "tokens": tokens, "token_strs": strings}
        await self._plain(request, value, await self._arrival_fault(request))

    async def _detokenize(self, request: Request) -> None:
        body = self._read(DetokenizeBody, request)
        value = {"prompt": detokenized(body.tokens)}
        await self._plain(request, value, await self._arrival_fault(request))


def _priority(request: Request) -> int | None:
    """`X-Vllm-Priority` overrides the body's priority; what is no number is ignored."""
    try:
        return int(request.headers["x-vllm-priority"])
    except (KeyError, ValueError):
        return None
