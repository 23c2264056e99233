"""What a profiler saw, shared out by stage."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.stages import LOOP, REST, Profile, read, stage_of, table
from benchmarks.stages_parts.native import collapsed

ROOT = Path(__file__).resolve().parents[2]
SPINE = "the list of steps: gateway.py, calls.py, and others"


def test_a_sample_counts_for_the_innermost_file_of_ours() -> None:
    found = read(
        [
            "main (router/cli.py:9);Gateway._serve (router/gateway.py:5);look (policies/view.py:7) 3\n",
            "main (/usr/src/router/cli.py:9);Gateway._serve (/usr/src/router/gateway.py:5);digest (hmac.py:198) 2\n",
            "main (router/cli.py:9);run (router/running.py:40);Runner.run (asyncio/runners.py:118) 4\n",
        ]
    )
    routing = stage_of("policies/view.py")
    assert found == {(routing, "policies/view.py"): 3, (SPINE, "router/gateway.py"): 2, (LOOP, "uvloop"): 4}


def test_a_function_of_the_compiled_form_counts_for_its_file() -> None:
    seen = [
        "python3 7 ",
        "\t7f01 do_syscall_64 ([kernel.kallsyms])",
        "\t7f02 CPyDef_admission___limits___TenantLimits___admit (/x/y__mypyc.so)",
        "\t7f03 CPyDef_router___limits___admit_Limiter_gen (/x/y__mypyc.so)",
        "\t7f04 uv__run (/x/uvloop/loop.so)",
        "",
        "python3 7 ",
        "\t7f05 uv__read (/x/uvloop/loop.so)",
        "\t7f06 _PyEval_EvalFrameDefault (/x/libpython.so)",
    ]
    files = ["policies/admission/limits.py", "router/limits.py", "router/gateway.py"]
    found = read(collapsed(seen, files))
    assert found == {("limits", "policies/admission/limits.py"): 1, (LOOP, "uvloop"): 1}


def test_threads_that_wait_are_no_cpu_and_other_threads_are() -> None:
    stacks = [
        "_bootstrap (threading.py:1002);run (router/ledger/shipper.py:8);wait (threading.py:331) 9",
        "_bootstrap (threading.py:1002);_worker (concurrent/futures/thread.py:81) 9",
        "_bootstrap (threading.py:1002);export (opentelemetry/sdk/export.py:4) 2",
        "",
    ]
    assert read(stacks) == {(REST, "export (opentelemetry/sdk/export.py:4)"): 2}


@pytest.mark.parametrize(
    ("file", "start"),
    [
        ("router/ledger/spool.py", "record"),
        ("policies/ledger/chain.py", "record"),
        ("router/limits.py", "limits"),
        ("policies/admission/window.py", "limits"),
        ("router/wire/usage.py", "the answer"),
        ("router/wire/openai.py", "the request"),
        ("router/connection.py", "HTTP to the engine"),
        ("router/exchange.py", "HTTP to the client"),
        ("policies/profile.py", "routing"),
        ("router/gateway.py", "the list of steps"),
    ],
)
def test_a_file_has_the_stage_that_it_works_for(file: str, start: str) -> None:
    assert (ROOT / file).is_file(), "it has moved: the patterns must follow"
    assert stage_of(file).startswith(start)


def test_microseconds_are_shares_of_what_the_kernel_counted() -> None:
    profile = Profile(200.0, Counter({("routing", "policies/view.py"): 3, ("record", "router/ledger/spool.py"): 1}))
    first, file, second, *_, last = table(profile, files=1).splitlines()[1:]
    assert first.split()[:3] == ["routing", "150.0", "75.0%"]
    assert file.split() == ["policies/view.py", "150.0"]
    assert second.split()[:3] == ["record", "50.0", "25.0%"]
    assert last.split()[:2] == ["all", "200.0"]
