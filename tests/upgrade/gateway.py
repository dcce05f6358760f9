"""A gateway of either release: charges until SIGTERM, and prints a line for each answer.

Run by the interpreter of a release, with nothing of the tests at hand.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from taximeter.meter import Meter
from taximeter.meter.wire.errors import StoreError

PATIENCE_S = 120.0


async def main(url: str, name: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    while True:
        try:
            connected = await Meter.connect(url)
            break
        except StoreError:  # No settler has opened the shard yet.
            await asyncio.sleep(0.05)
    async with connected as meter:
        number = 0
        while not stop.is_set():
            number += 1
            request_id, amount = f"{name}-{number}", 1 + number % 5
            end = loop.time() + PATIENCE_S
            while True:
                try:
                    await meter.charge("acme", "ann", amount, request_id=request_id)
                except StoreError as error:
                    # As a gateway does: the same id again, until it is known.
                    if loop.time() > end:
                        print(f"FAILED {request_id} {error!r}", flush=True)
                        return
                    await asyncio.sleep(0.05)
                else:
                    break
            print(f"{request_id} {amount}", flush=True)
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
