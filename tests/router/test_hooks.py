"""Hooks do what the operator said, within their time, and see no secret."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from router.hooks import Hook, HookFailed
from tests.router.builders import NOBODY

WRITE = "import json, os, sys; json.dump([sys.argv[2:], dict(os.environ)], open(sys.argv[1], 'w'))"


async def test_a_command_gets_its_arguments_as_they_are_and_no_variable_that_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTLANE_SECRET", "nobody's business")
    monkeypatch.setenv("DATABASE_PASSWORD", "nobody's business either")
    monkeypatch.setenv("KUBECONFIG", "/etc/kube")
    file = tmp_path / "seen"
    hook = Hook((sys.executable, "-c", WRITE, str(file), "a b; $(date)"), pass_env=("KUBECONFIG", "UNSET"))
    await hook.run("start", "main", ["cold-0", "cold-1"])
    arguments, environment = json.loads(file.read_text())
    assert arguments == ["a b; $(date)"]
    ours = {name: value for name, value in environment.items() if name.startswith("PROMPTLANE_")}
    assert ours == {
        "PROMPTLANE_ACTION": "start",
        "PROMPTLANE_POOL": "main",
        "PROMPTLANE_ENDPOINTS": "cold-0 cold-1",
    }
    assert environment["KUBECONFIG"] == "/etc/kube"
    assert "DATABASE_PASSWORD" not in environment


async def test_a_command_that_fails_says_why() -> None:
    hook = Hook((sys.executable, "-c", "import sys; print('x' * 5000 + ' no quota', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(HookFailed, match=r"ended with 3: x{1,400} no quota$"):
        await hook.run("start", "main", [])


async def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"import subprocess; subprocess.run(['sh', '-c', 'echo $$ > {file}; exec sleep 600'])"
    with pytest.raises(HookFailed, match="longer than 2 seconds"):
        await Hook((sys.executable, "-c", code), seconds=2.0).run("start", "main", [])
    pid = file.read_text().strip()
    async with asyncio.timeout(60):
        while _runs(pid):  # noqa: ASYNC110  # it dies in another process
            await asyncio.sleep(0.01)


def _runs(pid: str) -> bool:
    """Not so for what is dead and has only not been waited for."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


async def test_a_command_that_is_not_there_fails() -> None:
    with pytest.raises(HookFailed, match="cannot be run"):
        await Hook(("/no/such/program",)).run("stop", "main", [])


@pytest.mark.parametrize("status", [204, 500])
async def test_a_url_gets_a_post_that_says_what_to_do(status: int) -> None:
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        seen.extend(head.split(b"\r\n")[0] + b"|" + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    hook = Hook(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/scale")
    async with server:
        if status == 204:
            await hook.run("start", "main", ["cold"])
        else:
            with pytest.raises(HookFailed, match="the URL answered 500"):
                await hook.run("start", "main", ["cold"])
    line, body = bytes(seen).split(b"|")
    assert line == b"POST /scale HTTP/1.1"
    assert json.loads(body) == {"action": "start", "pool": "main", "endpoints": ["cold"]}


async def test_a_url_where_nobody_listens_fails() -> None:
    with pytest.raises(HookFailed, match="could not be called"):
        await Hook(url=NOBODY).run("start", "main", [])
