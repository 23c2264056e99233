"""What we start engines with is what this vLLM's own parser takes: by Compose, by Kubernetes, as CAPACITY.md says."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml

from router.config import load
from router.deployment.engines import workload
from router.deployment.plan import make_plan
from tests.deploy.tools import DEPLOY
from tests.real_vllm.servers import VENV

pytestmark = pytest.mark.real_vllm

PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
serve = make_arg_parser(parser.add_subparsers(dest="subparser").add_parser("serve"))
flags = {word for action in serve._actions for word in action.option_strings}
parsed = []
for words in json.loads(sys.stdin.read()):
    said = parser.parse_args(["serve", *words])
    validate_parsed_serve_args(said)
    parsed.append([said.model_tag, said.served_model_name, said.port, said.shutdown_timeout, said.enable_sleep_mode])
print(json.dumps([parsed, sorted(flags)]))
"""


def commands() -> dict[str, list[str]]:
    """Of every engine that is a vLLM: the words after `vllm serve`."""
    plan = make_plan(load(DEPLOY / "kubernetes" / "example" / "promptlane.yaml", environ={}))
    containers = {one.name: workload(one)["spec"]["template"]["spec"]["containers"][0] for one in plan.engines}
    found = {name: one["args"] for name, one in containers.items() if one["command"] == ["vllm", "serve"]}
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    for name, one in services.items():
        if one.get("entrypoint") == ["vllm", "serve"]:
            found[f"compose {name}"] = one["command"]
    return found


def test_its_parser_takes_every_command_and_knows_every_flag_of_the_notes() -> None:
    said = commands()
    assert {"acme-0", "acme-warm", "initech-0", "compose acme-0", "compose acme-warm", "compose globex-0"} <= set(said)
    command = [str(VENV / "bin" / "python"), "-c", PARSE]
    done = subprocess.run(command, input=json.dumps(list(said.values())), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    parsed, flags = json.loads(done.stdout.splitlines()[-1])
    by_name = dict(zip(said, parsed, strict=True))
    assert by_name["acme-warm"] == ["Qwen/Qwen2.5-72B-Instruct", ["Qwen/Qwen2.5-72B-Instruct"], 8000, 3600, True]
    assert by_name["compose acme-0"][0] == "Qwen/Qwen2.5-7B-Instruct"
    table = (DEPLOY / "CAPACITY.md").read_text().partition("## Whole GPU")[0]
    named = set(re.findall(r"`(--[a-z-]+)", table))
    assert len(named) > 8
    assert named - set(flags) == set()
