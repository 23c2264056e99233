"""The dashboard of vLLM's own figures, and of its GPUs as NVIDIA's DCGM exporter shows them."""

from __future__ import annotations

from deploy.observability.grafana.model import WINDOW, Dashboard, Panel, one, rate, rated, spread

_ENGINE = 'model_name=~"$model", instance=~"$instance"'
_GPU = 'Hostname=~"$host", gpu=~"$gpu"'
_USED, _FREE = f"DCGM_FI_DEV_FB_USED{{{_GPU}}}", f"DCGM_FI_DEV_FB_FREE{{{_GPU}}}"
_HITS, _LOOKED_UP = (
    f"sum by (instance) (rate(vllm:prefix_cache_{what}_total{{{_ENGINE}}}[{WINDOW}]))" for what in ("hits", "queries")
)


def _gpu(title: str, unit: str, field: str, text: str = "") -> Panel:
    return one(title, unit, f"DCGM_FI_DEV_{field}{{{_GPU}}}", "{{Hostname}} {{gpu}}", text)


ENGINES = Dashboard(
    "promptlane-engine",
    "Promptlane / Engine",
    "vLLM's own figures, and those of its GPUs by the DCGM exporter. Scrape both beside the gateways.",
    (
        (
            "Requests in engines",
            (
                one("Running", "short", f"sum by (instance) (vllm:num_requests_running{{{_ENGINE}}})", "{{instance}}"),
                one(
                    "Waiting inside engines",
                    "short",
                    f"sum by (instance) (vllm:num_requests_waiting{{{_ENGINE}}})",
                    "{{instance}}",
                    "The gateway holds requests back: many here mean that others send to the engine too.",
                ),
                one(
                    "KV cache in use",
                    "percentunit",
                    f"max by (instance) (vllm:kv_cache_usage_perc{{{_ENGINE}}})",
                    "{{instance}}",
                ),
                rate(
                    "Preempted",
                    "reqps",
                    "vllm:num_preemptions_total",
                    "instance",
                    _ENGINE,
                    "Requests that lost their place in the cache, and are computed again.",
                ),
                rate("Finished", "reqps", "vllm:request_success_total", "instance, finished_reason", _ENGINE),
                one(
                    "Asleep",
                    "short",
                    f'max by (instance, sleep_state) (vllm:engine_sleep_state{{{_ENGINE}, sleep_state!="awake"}})',
                    "{{instance}} {{sleep_state}}",
                ),
            ),
        ),
        (
            "Tokens and times",
            (
                Panel(
                    "Tokens a second",
                    "short",
                    (
                        rated("vllm:prompt_tokens_total", "instance", _ENGINE, "prompt"),
                        rated("vllm:generation_tokens_total", "instance", _ENGINE, "answer"),
                    ),
                ),
                one("Prefix cache hits", "percentunit", f"{_HITS} / {_LOOKED_UP}", "{{instance}}"),
                spread("First token", "vllm:time_to_first_token_seconds", "instance", _ENGINE),
                spread("Between two tokens", "vllm:inter_token_latency_seconds", "instance", _ENGINE),
                spread("In the engine's queue", "vllm:request_queue_time_seconds", "instance", _ENGINE),
                spread("Prefill", "vllm:request_prefill_time_seconds", "instance", _ENGINE),
            ),
        ),
        (
            "GPUs",
            (
                _gpu("Utilisation", "percent", "GPU_UTIL"),
                one("Memory in use", "percentunit", f"{_USED} / ({_USED} + {_FREE})", "{{Hostname}} {{gpu}}"),
                _gpu("Memory copy utilisation", "percent", "MEM_COPY_UTIL"),
                _gpu("Power", "watt", "POWER_USAGE"),
                _gpu("Temperature of the GPU", "celsius", "GPU_TEMP"),
                _gpu("Temperature of its memory", "celsius", "MEMORY_TEMP"),
                _gpu("SM clock", "short", "SM_CLOCK", "MHz."),
                one(
                    "PCIe retries",
                    "short",
                    f"increase(DCGM_FI_DEV_PCIE_REPLAY_COUNTER{{{_GPU}}}[1h])",
                    "{{Hostname}} {{gpu}}",
                    "In an hour.",
                ),
                _gpu("Last XID error", "short", "XID_ERRORS", "0: none."),
            ),
        ),
    ),
    (
        ("model", "model_name", "vllm:num_requests_running"),
        ("instance", "instance", "vllm:num_requests_running"),
        ("host", "Hostname", "DCGM_FI_DEV_GPU_UTIL"),
        ("gpu", "gpu", "DCGM_FI_DEV_GPU_UTIL"),
    ),
)
