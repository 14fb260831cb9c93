"""A viewer built on the `websockets` package: viewer.py URL CHANNEL

Prints every message as a line, then `closed CODE`.
"""

import asyncio
import sys

import websockets


async def watch(url, channel):
    async with websockets.connect(url) as viewer:
        await viewer.send(channel)
        try:
            while True:
                print(await viewer.recv(), flush=True)
        except websockets.ConnectionClosed as closed:
            print("closed", closed.rcvd.code if closed.rcvd else None, flush=True)


asyncio.run(watch(*sys.argv[1:]))
