"""The tenants' overlays: files for `kubectl kustomize`, from the configuration that the gateway reads.

Floor: plan -> texts by path; `written` is the one that writes.

    kustomization.yaml                  all of it
    priority-classes.yaml
    tiers/<tier>/kustomization.yaml     component: the tier's label and priority class on all engines
    tenants/<owner>/                    namespace, quota, network, models, scaling, and one file a pool
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from router.deployment.engines import Object, prepull, service, workload
from router.deployment.names import CLASS, TIER
from router.deployment.owners import models, namespace, network, priority_classes, quota, rights
from router.deployment.parts import Owner, Plan, endpoint_service

HEAD = "# Written by `promptlane render kubernetes`: change the configuration, not this file.\n"


class NotOurs(Exception):
    """The folder holds files that were not written by this command."""


def files(plan: Plan) -> dict[str, str]:
    """Text by path."""
    found = {"priority-classes.yaml": _text(priority_classes())}
    for tier in sorted({owner.tier for owner in plan.owners}):
        found[f"tiers/{tier}/kustomization.yaml"] = _text([_component(tier, plan.classes[tier])])
    for owner in plan.owners:
        parts = _parts(plan, owner)
        for name, objects in parts.items():
            found[f"tenants/{owner.name}/{name}"] = _text(objects)
        listed = _kustomization(sorted(parts), components=[f"../../tiers/{owner.tier}"])
        found[f"tenants/{owner.name}/kustomization.yaml"] = _text([listed])
    all_of_it = ["priority-classes.yaml", *(f"tenants/{owner.name}" for owner in plan.owners)]
    found["kustomization.yaml"] = _text([_kustomization(all_of_it)])
    return found


def write(plan: Plan, folder: Path) -> list[str]:
    """Writes them, and removes what it wrote before of tenants that are gone; the paths. Raises NotOurs, OSError."""
    texts = files(plan)
    old = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    foreign = [path for path in old if not path.read_bytes().startswith(HEAD.encode())]
    if foreign:
        raise NotOurs(f"{foreign[0]}: not written by this command; give --out a folder of its own")
    for path in old:
        if str(path.relative_to(folder)) not in texts:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return sorted(texts)


def _parts(plan: Plan, owner: Owner) -> dict[str, list[Object]]:
    parts = {
        "namespace.yaml": namespace(owner),
        "quota.yaml": quota(plan, owner),
        "network.yaml": network(plan, owner),
        "models.yaml": models(owner),
        "rights.yaml": rights(plan, owner),
    }
    pulled: dict[str, Object] = {}
    for engine in owner.engines:
        parts.setdefault(f"pool-{engine.pool}.yaml", []).append(workload(engine))
        if not engine.found:
            parts[f"pool-{engine.pool}.yaml"].append(service(endpoint_service(engine)))
        pulled.setdefault(engine.pool, prepull(engine))
    for search in owner.searches:
        parts[f"pool-{search.engines[0].pool}.yaml"].append(service(search.service))
    for pool, pulling in pulled.items():
        parts[f"pool-{pool}.yaml"].append(pulling)
    return {name: objects for name, objects in parts.items() if objects}


def _component(tier: str, priority_class: str) -> Object:
    patch = [{"op": "add", "path": "/spec/template/spec/priorityClassName", "value": priority_class}]
    batch = [{**patch[0], "value": "llm-batch"}]
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "labels": [{"pairs": {TIER: tier}, "includeSelectors": False, "includeTemplates": True}],
        "patches": [
            {"target": {"kind": "Deployment", "labelSelector": f"{CLASS}={kind}"}, "patch": yaml.safe_dump(one)}
            for kind, one in (("online", patch), ("batch", batch))
        ],
    }


def _kustomization(resources: Sequence[str], **more: list[str]) -> Object:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(resources),
        **more,
    }


class _Plain(yaml.SafeDumper):
    """No anchors: people read these files."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(objects: Sequence[Object]) -> str:
    return HEAD + yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, width=120, explicit_start=len(objects) > 1)
