"""`promptlane render` and `promptlane audit`: what runs in Kubernetes for a configuration, and whether it keeps apart.

Floor: a part of `router.cli`, which prints what is returned here. No gateway need run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from router.cli_ledger import add_config
from router.config import Config, load
from router.deployment.audit import audit
from router.deployment.objects import Manifests
from router.deployment.parts import Plan
from router.deployment.plan import make_plan
from router.errors import BadRequest

_SUFFIXES = (".yaml", ".yml", ".json")
_SECONDS = 120  # for kubectl, which reads files


def add_deployment(commands: argparse._SubParsersAction[argparse.ArgumentParser], config_default: str | None) -> None:
    """The parsers. `config_default`: the file where `--config` is not given."""
    render = commands.add_parser("render", help="write what a configuration means elsewhere")
    kinds = render.add_subparsers(dest="render_command", required=True, metavar="COMMAND")
    kubernetes = kinds.add_parser("kubernetes", help="write the tenants' overlays for `kubectl kustomize`")
    add_config(kubernetes, config_default)
    kubernetes.add_argument("--out", required=True, metavar="DIR", help="the folder; nothing else may be in it")

    check = commands.add_parser("audit", help="say whether tenants are kept apart in Kubernetes; ends with 1 if not")
    add_config(check, config_default)
    what = check.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--manifests", metavar="PATH", help="a folder that Kustomize builds, or YAML files of complete objects"
    )
    what.add_argument("--cluster", action="store_true", help="what runs now, by kubeconfig or the pod's account")
    check.add_argument("--json", action="store_true", help="print the findings as JSON")


def run_render(options: argparse.Namespace) -> Iterator[str]:
    """The lines to print. Raises ConfigError, GatewayError or OSError."""
    from router.deployment.render import NotOurs, write

    plan = _plan(load(options.config))
    try:
        written = write(plan, Path(options.out))
    except NotOurs as error:
        raise BadRequest(str(error)) from None
    yield f"{options.out}: {len(written)} files for {len(plan.owners)} owners of {len(plan.engines)} engines"


class Audit:
    """What to print, and the exit status once that is done."""

    def __init__(self) -> None:
        self.status = 0

    def run(self, options: argparse.Namespace) -> Iterator[str]:
        """The lines to print. Raises ConfigError, GatewayError or OSError."""
        plan = _plan(load(options.config))
        try:
            found = _live() if options.cluster else Manifests(_manifests(Path(options.manifests)))
            results = audit(plan, found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Objects that no API server has let in; which one, the shapes of all kinds would have to be known to say.
            text = f"an object is not shaped as Kubernetes has it ({type(error).__name__}): validate them first"
            raise BadRequest(text) from None
        count = sum(map(len, results.values()))
        self.status = int(count > 0)
        if options.json:
            yield json.dumps(
                {rule: [{"where": one.where, "text": one.text} for one in all_] for rule, all_ in results.items()},
                indent=2,
            )
            return
        for rule, all_ in results.items():
            yield from (f"{rule}: {one.where}: {one.text}" for one in all_)
        said = f"{count} findings" if count else "tenants are kept apart"
        yield f"{said} ({len(results)} rules, {len(plan.engines)} engines, {len(found.objects)} objects)"


def _plan(config: Config) -> Plan:
    plan = make_plan(config)
    if not plan.engines:
        raise BadRequest("No pool of the configuration has `deploy`: there is nothing to write or to look for.")
    return plan


def _live() -> Manifests:
    from router.deployment.cluster import ClusterFailed, find_api, read_cluster

    try:
        return Manifests(read_cluster(find_api()), live=True)
    except ClusterFailed as error:
        raise BadRequest(str(error)) from None


def _manifests(path: Path) -> list[dict[str, Any]]:
    """Built by Kustomize where the folder asks for that: only then are components applied."""
    if (path / "kustomization.yaml").is_file():
        return _objects(str(path), _built(path))
    files = sorted(one for one in path.rglob("*") if one.suffix in _SUFFIXES) if path.is_dir() else [path]
    return [one for file in files for one in _objects(str(file), file.read_text())]


def _built(path: Path) -> str:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise BadRequest(f"'{path}' is for Kustomize and there is no kubectl: build it elsewhere and give the result")
    command = [kubectl, "kustomize", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)  # noqa: S603 - no shell
    except subprocess.TimeoutExpired:
        raise BadRequest(f"kubectl kustomize {path}: not done after {_SECONDS} seconds") from None
    if done.returncode != 0:
        raise BadRequest(f"kubectl kustomize {path}: {done.stderr.strip()[:500]}")
    return done.stdout


def _objects(name: str, text: str) -> list[dict[str, Any]]:
    try:
        found = [one for one in yaml.safe_load_all(text) if isinstance(one, dict)]
    except yaml.YAMLError:
        raise BadRequest(f"'{name}' is no YAML") from None
    # What `kubectl get -o json` prints is a list of objects in one.
    lists = [one.get("items") if one.get("kind") == "List" else [one] for one in found]
    return [one for items in lists for one in items or () if isinstance(one, dict)]
