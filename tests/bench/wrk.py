"""Load from `wrk` where it is installed (Debian's package of that name), else from our own client.

wrk is written in C: it leaves more of a small machine to the server, for all sides alike.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from bench.harness import BenchFailed
from bench.http_load import drive, post

GRACE_S: Final = 30.0
WRK_S_MIN: Final = 0.5
_SCRIPT: Final = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{body}]==]
"""
_REQUESTS: Final = re.compile(r"^\s*(\d+) requests in ", re.MULTILINE)
_RATE: Final = re.compile(r"^Requests/sec:\s+([\d.]+)", re.MULTILINE)
_BAD: Final = re.compile(r"Non-2xx or 3xx responses|Socket errors")


def generator() -> str:
    """Which of the two is used here."""
    return "wrk" if shutil.which("wrk") else "our own client"


async def post_rate(
    url: str, body: bytes, *, connections: int, seconds: float
) -> tuple[int, float]:
    """Keep so many connections busy with this POST. Returns answers in all, and a second.

    Raises BenchFailed when one was not a success. wrk counts in whole seconds, at least one,
    so what is much shorter (the quick warm-up) does not need it.
    """
    program = shutil.which("wrk")
    if program is None or seconds < WRK_S_MIN:
        request = post(url, body)
        load = await drive(url, [lambda: request], connections=connections, seconds=seconds)
        return len(load.times), load.per_second
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        await asyncio.to_thread(script.write_text, _SCRIPT.format(body=body.decode()))
        arguments = (
            *("--threads", "1", "--connections", str(connections)),
            *("--duration", f"{max(1, round(seconds))}s", "--script", str(script)),
        )
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            url,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(seconds + GRACE_S):
                output, _ = await process.communicate()
        except TimeoutError:
            raise BenchFailed("wrk did not end in time") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    text = output.decode(errors="replace")
    requests, rate = _REQUESTS.search(text), _RATE.search(text)
    if process.returncode != 0 or _BAD.search(text) or requests is None or rate is None:
        raise BenchFailed(f"wrk at {url}: {text[-1_000:]}")
    return int(requests[1]), float(rate[1])
