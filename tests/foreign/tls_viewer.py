"""A viewer that may come over TLS: tls_viewer.py URL CHANNEL [CERTIFICATE [ADDRESS [HEADER...]]]

It connects from ADDRESS, and sends each HEADER (`NAME: VALUE`) with its request.
Prints every message as a line, then `closed CODE`, then the SHA-256 of every byte after the upgrade.
"""

import asyncio
import hashlib
import ssl
import sys

import websockets
from websockets.asyncio.client import ClientConnection, connect

DEADLINE = 40  # seconds; only a failing test waits this long


class Recorder(ClientConnection):
    received = b""

    def data_received(self, data):
        self.received += data
        super().data_received(data)


async def watch(url, channel, certificate=None, address=None, *headers):
    options = {
        "ssl": ssl.create_default_context(cafile=certificate) if certificate else None,
        "local_addr": (address, 0) if address else None,
        "additional_headers": [header.split(": ", 1) for header in headers],
    }
    async with connect(url, proxy=None, ping_interval=None, create_connection=Recorder, **options) as viewer:
        await viewer.send(channel)
        try:
            while True:
                print(await asyncio.wait_for(viewer.recv(), DEADLINE), flush=True)
        except websockets.ConnectionClosed as closed:
            print("closed", closed.rcvd.code if closed.rcvd else None)
    print(hashlib.sha256(viewer.received.partition(b"\r\n\r\n")[2]).hexdigest())


asyncio.run(watch(*sys.argv[1:]))
