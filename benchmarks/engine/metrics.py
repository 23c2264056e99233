"""The engine's `/metrics`: the families, labels and buckets of the captured vLLM 0.32 server.

Floor: owns its own registry, so several engines live in one process. Names and help lines are the real engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    Summary,
    generate_latest,
)

if TYPE_CHECKING:
    from benchmarks.engine.config import EngineConfig
    from benchmarks.engine.model import EngineModel, StepResult

TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
BETWEEN_TOKENS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
HTTP = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 7.5, 10.0, 30.0, 60.0,
)  # fmt: skip

CACHE_INFO = {
    "_block_size_resolved": "True", "cache_dtype": "auto", "cache_hit_alignment_tokens": "None",
    "enable_mamba_shared_prefix_checkpoint": "False", "enable_prefix_caching": "True", "engine": "0",
    "gpu_memory_utilization": "0.92", "hash_block_size": "None", "is_attention_free": "False",
    "kv_cache_dtype_skip_layers": "[]", "kv_cache_layout": "None", "kv_cache_memory_bytes": "None",
    "kv_offloading_backend": "native", "kv_offloading_size": "None", "kv_sharing_fast_prefill": "False",
    "mamba_block_size": "None", "mamba_cache_dtype": "auto", "mamba_cache_mode": "none",
    "mamba_page_size_padded": "None", "mamba_ssm_cache_dtype": "float32", "num_cpu_blocks": "None",
    "prefix_cache_retention_interval": "0", "prefix_caching_hash_algo": "sha256", "prefix_match_unit": "None",
    "replayssm_buffer_len": "16", "skip_page_size_padded": "None", "sliding_window": "None",
    "swa_bounded_replay": "True", "use_kda_recoverssm": "False", "use_replayssm": "False",
    "user_specified_block_size": "True",
}  # fmt: skip
"""Labels of `vllm:cache_config_info` that say nothing about this engine, as captured."""

FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")


class EngineMetrics:
    """All families of one engine. Times are seconds, sizes bytes or tokens as the name says."""

    def __init__(self, config: EngineConfig) -> None:
        self.registry = CollectorRegistry()
        self._model = config.model
        GCCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        ProcessCollector(registry=self.registry)
        self._add_gauges()
        self._add_counters()
        self._add_histograms()
        self._add_cache_info(config)
        self._add_http()

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"vllm:{name}", text, ("engine", "model_name", *labels), registry=self.registry)

    def _counter(self, name: str, text: str, label: str = "", values: Sequence[str] = ()) -> Counter:
        """With `label`: the family with one child per value, all present from the start."""
        names = ("engine", "model_name", label) if label else ("engine", "model_name")
        family = Counter(f"vllm:{name}", text, names, registry=self.registry)
        for value in values:
            family.labels("0", self._model, value)
        return family if label else family.labels("0", self._model)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        family = Histogram(f"vllm:{name}", text, ("engine", "model_name"), buckets=buckets, registry=self.registry)
        return family.labels("0", self._model)

    def _add_gauges(self) -> None:
        self.running = self._gauge("num_requests_running", "Number of requests in model execution batches.").labels(
            "0", self._model
        )
        self.waiting = self._gauge("num_requests_waiting", "Number of requests waiting to be processed.").labels(
            "0", self._model
        )
        reasons = self._gauge("num_requests_waiting_by_reason", "Number of waiting requests by reason.", "reason")
        self.waiting_capacity = reasons.labels("0", self._model, "capacity")
        reasons.labels("0", self._model, "deferred")
        self.sleep_state = self._gauge("engine_sleep_state", "Engine sleep state.", "sleep_state")
        self.set_sleep(None)
        self.kv_usage = self._gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.").labels(
            "0", self._model
        )

    def _add_counters(self) -> None:
        for kind in ("flops", "read_bytes", "write_bytes"):
            self._counter(f"estimated_{kind}_per_gpu", "Estimated work per GPU; always 0 here.")
        text = "Prefix cache queries, in terms of number of queried tokens."
        self.prefix_queries = self._counter("prefix_cache_queries", text)
        text = "Prefix cache hits, in terms of number of cached tokens."
        self.prefix_hits = self._counter("prefix_cache_hits", text)
        for family in ("external_prefix_cache", "mm_cache"):
            self._counter(f"{family}_queries", "Queries; always 0 here.")
            self._counter(f"{family}_hits", "Hits; always 0 here.")
        self.preemptions = self._counter("num_preemptions", "Cumulative number of preemption from the engine.")
        self.prompt_tokens = self._counter("prompt_tokens", "Number of prefill tokens processed.")
        sources = ("local_compute", "local_cache_hit", "external_kv_transfer")
        text = "Number of prompt tokens by source."
        self.prompt_sources = self._counter("prompt_tokens_by_source", text, "source", sources)
        text = "Number of cached prompt tokens (local + external)."
        self.prompt_cached = self._counter("prompt_tokens_cached", text)
        tiers = ("device", "host", "p2p", "disk", "external_unspecified")
        text = "Prefix-cache hit tokens by the cache tier that supplied them."
        self.cached_sources = self._counter("prompt_tokens_cached_by_source", text, "source", tiers)
        self.generation_tokens = self._counter("generation_tokens", "Number of generation tokens processed.")
        text = "Count of successfully processed requests."
        self.success = self._counter("request_success", text, "finished_reason", FINISH_REASONS)
        text = "Number of admission attempts rejected by a queue limit, by reason."
        rejected = Counter("vllm:admission_rejections", text, ("model_name", "reason"), registry=self.registry)
        self.rejections = rejected.labels(self._model, "max_num_queued_reqs")
        rejected.labels(self._model, "max_num_queued_tokens")

    def _add_histograms(self) -> None:
        add = self._histogram
        self.request_prompt = add("request_prompt_tokens", "Number of prefill tokens processed.", TOKENS)
        self.request_generation = add("request_generation_tokens", "Number of generation tokens processed.", TOKENS)
        self.iteration = add("iteration_tokens_total", "Histogram of number of tokens per engine_step.", STEP_TOKENS)
        text = "Histogram of maximum number of requested generation tokens."
        self.max_generation = add("request_max_num_generation_tokens", text, TOKENS)
        self.params_n = add("request_params_n", "Histogram of the n request parameter.", (1, 2, 5, 10, 20))
        text = "Histogram of the max_tokens request parameter."
        self.params_max_tokens = add("request_params_max_tokens", text, TOKENS)
        self.first_token = add(
            "time_to_first_token_seconds", "Histogram of time to first token in seconds.", FIRST_TOKEN
        )
        text = "Histogram of inter-token latency in seconds."
        self.between_tokens = add("inter_token_latency_seconds", text, BETWEEN_TOKENS)
        text = "Histogram of time_per_output_token_seconds per request."
        self.per_token = add("request_time_per_output_token_seconds", text, BETWEEN_TOKENS)
        self.latency = add("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", REQUEST)
        phase = "Histogram of time spent in {} phase for request."
        self.queue_time = add("request_queue_time_seconds", phase.format("WAITING"), REQUEST)
        self.inference_time = add("request_inference_time_seconds", phase.format("RUNNING"), REQUEST)
        self.prefill_time = add("request_prefill_time_seconds", phase.format("PREFILL"), REQUEST)
        self.decode_time = add("request_decode_time_seconds", phase.format("DECODE"), REQUEST)
        text = "Histogram of the number of times a request was preempted."
        self.preempted = add("request_num_preemptions", text, (1, 2, 3, 4, 5, 10, 20))
        text = "Histogram of new KV tokens computed during prefill (excluding cached tokens)."
        self.prefill_computed = add("request_prefill_kv_computed_tokens", text, TOKENS)

    def _add_cache_info(self, config: EngineConfig) -> None:
        tokens = config.kv_blocks * config.block_size
        labels = CACHE_INFO | {
            "block_size": str(config.block_size),
            "effective_attention_block_size": str(config.block_size),
            "num_gpu_blocks": str(config.kv_blocks),
            "num_gpu_blocks_override": str(config.kv_blocks),
            "kv_cache_size_tokens": str(tokens),
            "kv_cache_max_concurrency": str(tokens / config.context_limit),
        }
        text = "Information of the LLMEngine CacheConfig"
        info = Gauge("vllm:cache_config_info", text, sorted(labels), registry=self.registry)
        info.labels(**labels).set(1)

    def _add_http(self) -> None:
        by_route = ("handler", "method", "status")
        text = "Total number of requests by method, status and handler."
        self.http_requests = Counter("http_requests", text, by_route, registry=self.registry)
        text = "Content length of incoming requests by handler."
        self.http_in = Summary("http_request_size_bytes", text, ("handler",), registry=self.registry)
        text = "Content length of outgoing responses by handler."
        self.http_out = Summary("http_response_size_bytes", text, ("handler",), registry=self.registry)
        text = "Latency with many buckets but no API specific labels."
        self.http_all = Histogram("http_request_duration_highr_seconds", text, buckets=HTTP, registry=self.registry)
        text = "Latency with only few buckets by handler."
        self.http_by_route = Histogram(
            "http_request_duration_seconds", text, ("handler", "method"), buckets=(0.1, 0.5, 1), registry=self.registry
        )

    def set_sleep(self, level: int | None) -> None:
        """None: awake. Of a real engine at level 0 no label is 1, and it stays so after `/resume`."""
        states = {"awake": level is None, "weights_offloaded": level == 1, "discard_all": level == 2}
        for state, value in states.items():
            self.sleep_state.labels("0", self._model, state).set(value)

    def observe_step(self, result: StepResult) -> None:
        self.iteration.observe(result.tokens)
        self.preemptions.inc(result.preempted)
        self.generation_tokens.inc(sum(event.number >= 0 for event in result.events))
        for sequence in result.admitted:
            cached, computed = sequence.cached_tokens, sequence.prompt_tokens - sequence.cached_tokens
            self.prefix_queries.inc(sequence.prompt_tokens)
            self.prefix_hits.inc(cached)
            self.prompt_tokens.inc(sequence.prompt_tokens)
            self.prompt_cached.inc(cached)
            self.prompt_sources.labels("0", self._model, "local_compute").inc(computed)
            self.prompt_sources.labels("0", self._model, "local_cache_hit").inc(cached)
            self.cached_sources.labels("0", self._model, "device").inc(cached)

    def observe_http(self, route: str, method: str, status: int, seconds: float, received: int, sent: int) -> None:
        self.http_requests.labels(route, method, f"{status // 100}xx").inc()
        self.http_in.labels(route).observe(received)
        self.http_out.labels(route).observe(sent)
        self.http_all.observe(seconds)
        self.http_by_route.labels(route, method).observe(seconds)

    def render(self, model: EngineModel) -> bytes:
        """The text of `/metrics`, with the gauges read from the model now."""
        self.running.set(model.running)
        self.waiting.set(model.waiting)
        self.waiting_capacity.set(model.waiting)
        self.kv_usage.set(model.cache.used / model.cache.capacity)
        return generate_latest(self.registry)
