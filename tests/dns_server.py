"""A DNS server, in a process of its own: authoritative for what a file says, which may change while it serves.

    with DnsServer() as server:
        server.tell({"_http._tcp.llm.test": {"SRV": ["0 1 8000 a.llm.test."]}, "a.llm.test": {"A": ["10.0.0.1"]}})
        ... ask 127.0.0.1:{server.port}, by UDP or TCP

Floor: tests only. It fails as real ones do: `silent`, `servfail`, `refused`, or all answers are `truncated` by UDP.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

RCODES = {"servfail": dns.rcode.SERVFAIL, "refused": dns.rcode.REFUSED}


class DnsServer:
    """`fault`: what goes wrong from now on; None for nothing."""

    def __enter__(self) -> DnsServer:
        self._folder = tempfile.TemporaryDirectory(prefix="promptlane-dns-")
        self._file = Path(self._folder.name) / "zone.json"
        self._zone: dict[str, Any] = {}
        self.tell({})
        command = [sys.executable, "-m", "tests.dns_server", str(self._file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()

    def stop(self) -> None:
        """It is killed: nobody listens at the port any more."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def tell(self, zone: dict[str, dict[str, list[str]]], fault: str | None = None) -> None:
        """From now on these records, by name and type, and this fault."""
        self._zone = zone
        text = json.dumps({"zone": zone, "fault": fault})
        changed = self._file.with_suffix(".new")
        changed.write_text(text)
        changed.replace(self._file)

    def fail(self, fault: str | None) -> None:
        self.tell(self._zone, fault)


def answer(file: Path, data: bytes, *, udp: bool) -> bytes | None:
    """What to send; None for silence."""
    said = json.loads(file.read_text())
    if said["fault"] == "silent":
        return None
    question = dns.message.from_wire(data)
    reply = dns.message.make_response(question)
    reply.flags |= dns.flags.AA
    (asked,) = question.question
    if (code := RCODES.get(said["fault"])) is not None:
        reply.set_rcode(code)
        return reply.to_wire()
    records = said["zone"].get(asked.name.to_text(omit_final_dot=True).lower())
    kind = dns.rdatatype.to_text(asked.rdtype)
    if records is None:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    elif kind in records:
        reply.answer.append(dns.rrset.from_text(asked.name, 1, "IN", kind, *records[kind]))
    if udp and said["fault"] == "truncated":
        reply.answer.clear()
        reply.flags |= dns.flags.TC
    return reply.to_wire()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, file: Path) -> None:
        self._file = file

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, sender: Any) -> None:
        reply = answer(self._file, data, udp=True)
        if reply is not None:
            self._transport.sendto(reply, sender)


async def _serve(file: Path) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                reply = answer(file, data, udp=False)
                if reply is not None:
                    writer.write(len(reply).to_bytes(2, "big") + reply)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: _Udp(file), ("127.0.0.1", port))
    print(port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
