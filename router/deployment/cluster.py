"""The objects that rules ask about, from the API server: lists of whole kinds, never a Secret's.

Floor: asks by `router.kubernetes_api`, as the gateway does. Credentials are those of `kubectl` (a kubeconfig with a
token or a certificate), or of the pod's service account. What a kubeconfig has a program for is refused: `kubectl
proxy` and a kubeconfig with its address do the same.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from router.deployment.objects import Object
from router.kubernetes_api import SERVICE_ACCOUNT, ApiFailed, ApiSettings, KubernetesApi, cluster_url

_PAGE = 500  # objects of one answer: some MB
_MOST_PAGES = 200
_SECONDS = 30.0
_KINDS = {
    "/api/v1": ("Namespace", "Node", "Pod", "Service", "ResourceQuota", "LimitRange"),
    "/apis/apps/v1": ("Deployment", "DaemonSet", "StatefulSet"),
    "/apis/batch/v1": ("Job", "CronJob"),
    "/apis/networking.k8s.io/v1": ("NetworkPolicy", "Ingress"),
    "/apis/scheduling.k8s.io/v1": ("PriorityClass",),
    "/apis/rbac.authorization.k8s.io/v1": ("Role", "RoleBinding", "ClusterRoleBinding"),
}
# Installed with a Gateway controller, or not there.
_OPTIONAL = {
    "/apis/gateway.networking.k8s.io/v1": ("Gateway", "HTTPRoute", "GRPCRoute"),
    "/apis/gateway.networking.k8s.io/v1beta1": ("ReferenceGrant",),
}
_PLURALS = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses", "PriorityClass": "priorityclasses"}


class ClusterFailed(Exception):
    """The API server cannot be asked; the text says why."""


def find_api(environ: Mapping[str, str] = os.environ, account: Path = SERVICE_ACCOUNT) -> KubernetesApi:
    """As kubectl finds it: KUBECONFIG, ~/.kube/config, else the pod's own account. Raises ClusterFailed."""
    named = [Path(one) for one in environ.get("KUBECONFIG", "").split(os.pathsep) if one]
    for path in named or [Path(environ.get("HOME", "/")) / ".kube" / "config"]:
        if path.is_file():
            return KubernetesApi(_kubeconfig(path))
    if named or cluster_url(environ) is None:
        raise ClusterFailed(
            f"there is no {named[0]}" if named else "there is no kubeconfig (KUBECONFIG), and this is no pod"
        )
    if not all((account / name).is_file() for name in ("token", "ca.crt")):
        raise ClusterFailed(f"the service account cannot be read: {account} has no token or no ca.crt")
    return KubernetesApi(ApiSettings(seconds=_SECONDS), environ, account)


def read_cluster(api: KubernetesApi) -> list[Object]:
    """All objects of the kinds that rules ask about. Raises ClusterFailed."""
    return asyncio.run(_read(api))


async def _read(api: KubernetesApi) -> list[Object]:
    found: list[Object] = []
    try:
        for group, kinds in {**_KINDS, **_OPTIONAL}.items():
            for kind in kinds:
                found += await _listed(api, group, kind, optional=group in _OPTIONAL)
    finally:
        await api.renew()
    return found


async def _listed(api: KubernetesApi, group: str, kind: str, *, optional: bool) -> list[Object]:
    """Items of a list name no kind of their own."""
    path, found = f"{group}/{_PLURALS.get(kind, kind.lower() + 's')}", []
    params: dict[str, str | int] = {"limit": _PAGE}
    for _ in range(_MOST_PAGES):
        try:
            page = json.loads(await api.call("GET", path, params=params))
            found += [{**one, "kind": kind} for one in page["items"] or ()]
            after = (page.get("metadata") or {}).get("continue")
        except ApiFailed as failed:
            if failed.status == 404 and optional:
                return []
            raise ClusterFailed(f"a list of {kind}: {failed}") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ClusterFailed(f"a list of {kind}: the API's answer cannot be read") from None
        if not after:
            return found
        params["continue"] = after
    raise ClusterFailed(f"the list of {kind} has no end")


def _kubeconfig(path: Path) -> ApiSettings:
    try:
        said = yaml.safe_load(path.read_text())
        context = _named(said, "contexts", said["current-context"])["context"]
        cluster = _named(said, "clusters", context["cluster"])["cluster"]
        user = (_named(said, "users", context["user"]) if context.get("user") else {}).get("user") or {}
        url = str(cluster["server"]).rstrip("/")
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError):
        raise ClusterFailed(f"{path} names no cluster and user that can be read") from None
    if user.get("exec") or user.get("auth-provider"):
        raise ClusterFailed(
            f"{path}: the user's credentials come from a program; run `kubectl proxy` and name its address"
        )
    try:
        token, context = _token(user, path.parent), _tls(cluster, user, path.parent)
        return ApiSettings(url, seconds=_SECONDS, token=token, context=context)
    except (OSError, ssl.SSLError, binascii.Error) as error:
        raise ClusterFailed(f"{path}: its credentials cannot be read ({type(error).__name__})") from None


def _named(said: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    found: dict[str, Mapping[str, Any]] = {one["name"]: one for one in said[kind]}
    return found[name]


def _token(user: Mapping[str, Any], folder: Path) -> str:
    if user.get("tokenFile"):
        return (folder / str(user["tokenFile"])).read_text().strip()
    return str(user.get("token") or "")


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    authorities = _material(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=authorities.decode() if authorities is not None else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    certificate, key = (_material(user, name, folder) for name in ("client-certificate", "client-key"))
    if certificate is not None and key is not None:
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # 0600; `ssl` reads files only
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _material(said: Mapping[str, Any], name: str, folder: Path) -> bytes | None:
    if said.get(f"{name}-data"):
        return base64.b64decode(str(said[f"{name}-data"]), validate=True)
    return (folder / str(said[name])).read_bytes() if said.get(name) else None
