"""A network for replicas: each in a namespace of its own, on one bridge, so that any two can be cut off.

Floor: tests only; Linux, `unshare`, `nsenter` and `ip`. This process is in a namespace of its own too (`enter`), where
the bridge, the engines and the clients are: nothing of the machine's own network is touched, and all of it is gone with
the processes. Between two places that are cut off nothing arrives, in both directions, and nobody is told: each sends
the other's packets to an Ethernet address that nobody has. Where all this is not possible, everything runs on the
loopback, and nothing can be cut (`Loopback`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

HUB = "hub"
"""Where the engines and the clients are."""
_INSIDE = "CHAOS_NETWORK"
_NOBODY = "02:00:00:00:00:99"
_START_SECONDS = 10.0


class NetworkFailed(AssertionError):
    """`ip` would not do what was asked, although it had been able to."""


@dataclass(frozen=True)
class Place:
    """Somewhere to run: `address` to listen at; `prefix`: what stands before a command that is to run there."""

    name: str
    address: str
    prefix: Sequence[str] = ()


class Net(Protocol):
    """Places, and what is between them. `impossible`: why nothing can be cut here, empty where it can."""

    impossible: str

    def place(self, name: str) -> Place: ...

    def cut(self, one: str, other: str) -> None: ...

    def heal(self, one: str, other: str) -> None: ...

    def close(self) -> None: ...


def enter(module: str, arguments: Sequence[str]) -> str:
    """Goes on as the same program in a network namespace of its own: does not return then. Returns, with the reason,
    where that is not possible; with an empty one where this is already the program in there."""
    if os.environ.get(_INSIDE):
        return ""
    unshare = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net"]
    attempt = "ip link add try0 type bridge && ip link add try1 type veth peer name try2 && unshare --net true"
    try:
        tried = subprocess.run([*unshare, "sh", "-c", attempt], capture_output=True, text=True, timeout=_START_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if tried.returncode:
        return (tried.stderr.strip().splitlines() or ["unshare failed"])[-1]
    argv = [*unshare, sys.executable, "-m", module, *arguments]
    os.execvpe(argv[0], argv, {**os.environ, _INSIDE: "own"})  # noqa: S606 - ourselves


class Loopback:
    """No namespaces: all places are this one."""

    def __init__(self, impossible: str) -> None:
        self.impossible = impossible

    def place(self, name: str) -> Place:
        return Place(name, "127.0.0.1")

    def cut(self, one: str, other: str) -> None:
        raise NetworkFailed(f"{one} and {other} cannot be cut off from each other: {self.impossible}")

    heal = cut

    def close(self) -> None:
        """There is nothing to take away."""


class Network:
    """One bridge. Cuts are counted: what two faults cut is whole again when both are over."""

    impossible = ""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._places = {HUB: Place(HUB, "10.77.0.1")}
        self._cuts: Counter[frozenset[str]] = Counter()
        _ip("link set lo up", "link add br0 type bridge", "addr add 10.77.0.1/24 dev br0", "link set br0 up")

    def place(self, name: str) -> Place:
        """The place of this name, made when it is first asked for."""
        if name not in self._places:
            self._places[name] = self._make(name, len(self._places) + 1)
        return self._places[name]

    def cut(self, one: str, other: str) -> None:
        self._cuts[frozenset((one, other))] += 1
        for here, there in ((one, other), (other, one)):
            _ip(f"neigh replace {self._address(there)} lladdr {_NOBODY} nud permanent dev {_device(here)}",
                inside=self._places[here])  # fmt: skip

    def heal(self, one: str, other: str) -> None:
        pair = frozenset((one, other))
        self._cuts[pair] -= 1
        if self._cuts[pair]:
            return
        for here, there in ((one, other), (other, one)):
            _ip(f"neigh del {self._address(there)} dev {_device(here)}", inside=self._places[here])

    def close(self) -> None:
        self._stack.close()

    def _address(self, name: str) -> str:
        return self._places[name].address

    def _make(self, name: str, number: int) -> Place:
        """A process that does nothing holds the namespace; it ends with its standard input, however we end."""
        holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                  start_new_session=True)  # fmt: skip
        self._stack.callback(_end, holder)
        ours, end = os.readlink("/proc/self/ns/net"), time.monotonic() + _START_SECONDS
        namespace = Path(f"/proc/{holder.pid}/ns/net")
        while os.readlink(namespace) == ours:
            if time.monotonic() > end:
                raise NetworkFailed(f"no namespace for {name}")
            time.sleep(0.01)
        place = Place(name, f"10.77.0.{number}", ("nsenter", "--target", str(holder.pid), "--net"))
        _ip(f"link add v{number} type veth peer name eth0 netns {holder.pid}", f"link set v{number} master br0 up")
        _ip("link set lo up", f"addr add {place.address}/24 dev eth0", "link set eth0 up", inside=place)
        return place


def _device(name: str) -> str:
    return "br0" if name == HUB else "eth0"


def _ip(*lines: str, inside: Place | None = None) -> None:
    argv = [*(inside.prefix if inside is not None else ()), "ip", "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines), capture_output=True, text=True)
    if done.returncode:
        raise NetworkFailed(f"ip: {lines}: {done.stderr.strip()}")


def _end(holder: subprocess.Popen[bytes]) -> None:
    assert holder.stdin is not None
    holder.stdin.close()
    holder.wait(_START_SECONDS)
