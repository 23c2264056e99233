"""A Deployment or StatefulSet of Kubernetes is scaled: how cold standbys are started and stopped without a command.

Floor: an adapter over the API. Only the scale subresource is patched, so that a Role with `patch` on that of the one
object is all that it takes.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from router.kubernetes_api import ApiFailed, ApiSettings, KubernetesApi

_log = logging.getLogger("promptlane.standby")

# Seconds before an API that is away or busy is asked again, doubling.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
_PATCH = "application/merge-patch+json"
_PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets"}


@dataclass(frozen=True, slots=True)
class Scale:
    """What is scaled, and to how many; None: 1 to start, 0 to stop. `kind`: Deployment or StatefulSet."""

    api: ApiSettings
    namespace: str
    kind: str
    name: str
    replicas: int | None = None

    async def run(self, action: str) -> None:
        """Returns when the API has taken the number; it is the caller who limits the time. Raises ApiFailed where
        asking again is of no use."""
        wanted = self.replicas if self.replicas is not None else int(action == "start")
        path = f"/apis/apps/v1/namespaces/{self.namespace}/{_PLURALS[self.kind]}/{self.name}/scale"
        api, pause = KubernetesApi(self.api), FIRST_PAUSE
        try:
            while True:
                try:
                    await api.call("PATCH", path, body=(_PATCH, b'{"spec":{"replicas":%d}}' % wanted))
                    _log.info("%s %s in namespace %s is scaled to %d", self.kind, self.name, self.namespace, wanted)
                    return
                except ApiFailed as failed:
                    if not _passes(failed):
                        raise
                    _log.warning("%s %s is not scaled yet: %s", self.kind, self.name, failed)
                    await api.renew()
                    await asyncio.sleep(max(pause, failed.retry_after))
                    pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            await api.renew()


def _passes(failed: ApiFailed) -> bool:
    """Whether it may be otherwise the next time: nobody answered, or it is busy, or somebody else wrote just then."""
    return failed.cause in ("unreachable", "timeout") or failed.status in (409, 429) or failed.status >= 500
