"""`python -m bench.routing_costs`: measure what each channel of the router costs, and print the module it starts from.

    python -m bench.routing_costs > src/tertulia/_rules/routing_costs.py

Every engine, size and number of receivers is tried in turn by each channel, round after round, and the medians are
fitted: so much for a call, for each receiver, for each byte, for each byte and receiver; never less than nothing, with
the same relative weight for the small and the large. An engine whose program is missing is left out, and said so.
With `--cpu` the time is the processor's, which other work on the machine disturbs less; not for NATS, whose server's
time it would leave out.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from statistics import median
from time import perf_counter, process_time

from bench.machine import describe_machine
from bench.servers import directory, nats_server, program
from tertulia import Channel, IntelligentRouter, MessagePassingAgent, connect

SIZES = (100, 3_000, 30_000, 300_000)
READERS = (1, 3, 8)
ROUNDS = 15
ONE_WAY = (Channel.MESSAGE, Channel.POINTER, Channel.MEMORY)
AGENTS = tuple(f"reader-{number}" for number in range(max(READERS)))

Timer = Callable[[], float]
Samples = dict[tuple[Channel, int, int], list[tuple[float, float]]]


@asynccontextmanager
async def spaces() -> AsyncIterator[dict[str, str]]:
    """Give the URL of a fresh space on every engine that can be had here."""
    with directory() as place:
        urls = {"memory": "memory:", "file": f"file:{place}/space.db"}
        if program("nats-server") is None:
            print("nats: nats-server is not installed, so it is left out", file=sys.stderr)
            yield urls
            return
        async with nats_server("--jetstream", "--store_dir", str(place / "nats")) as url:
            yield {**urls, "nats": f"{url}/routing"}


async def measure(url: str, timer: Timer) -> Samples:
    """Return seconds of the sender's and of the receivers' calls, by channel, size and receivers."""
    samples: Samples = defaultdict(list)
    async with connect(url) as space:
        for agent in AGENTS:
            await space.broker.register_agent(agent)
        router = IntelligentRouter(space)
        for _ in range(ROUNDS):
            for size in SIZES:
                for readers in READERS:
                    for channel in ONE_WAY:
                        samples[channel, size, readers].append(await _one_way(router, timer, channel, size, readers))
        async with MessagePassingAgent("answering", space.broker) as agent:
            agent.on_message("default")(lambda _: None)
            for _ in range(ROUNDS):
                for size in SIZES:
                    samples[Channel.REQUEST, size, 1].append(await _request(router, timer, size))
    return samples


async def _one_way(
    router: IntelligentRouter, timer: Timer, channel: Channel, size: int, readers: int
) -> tuple[float, float]:
    space = router.space
    content = os.urandom(size // 2).hex()  # new, so that no copy of it is there
    start = timer()
    result = await router.route("sender", AGENTS[:readers], content, {"channel": channel, "ttl": 60})
    sent = timer()
    for agent in AGENTS[:readers]:
        if result.key is not None:
            assert await router.read(result.key, reader=agent) == content
            continue
        delivery = await space.broker.receive(agent, timeout=5)
        assert delivery is not None
        await delivery.acknowledge()
    read = timer()
    if result.key is not None:
        await space.memory.delete(result.key, requester="sender")
    return sent - start, read - sent


async def _request(router: IntelligentRouter, timer: Timer, size: int) -> tuple[float, float]:
    start = timer()
    await router.route("sender", "answering", "x" * size, {"reply": True})
    return timer() - start, 0.0


def fit(samples: Samples, channel: Channel) -> tuple[float, ...]:
    """Return a channel's line: four numbers for sending, two for what each receiver needs."""
    found = {key: values for key, values in samples.items() if key[0] is channel}
    sending = [((1.0, n, s, s * n), median(sent for sent, _ in values)) for (_, s, n), values in found.items()]
    reading = [((1.0, s), median(read for _, read in values) / n) for (_, s, n), values in found.items()]
    if channel is Channel.REQUEST:  # of one receiver only
        sending = [((1.0, 0.0, size, 0.0), seconds) for (_, _, size, _), seconds in sending]
    call = _fitted(sending)
    return (*call, *_fitted(reading))


def _fitted(points: Sequence[tuple[tuple[float, ...], float]]) -> list[float]:
    """Return the factors, none below zero, with the least squares of relative errors, by coordinate descent."""
    width = len(points[0][0])
    factors = [0.0] * width
    rows = [(tuple(part / y for part in x), 1.0) for x, y in points if y > 0]
    for _ in range(5_000):
        for place in range(width):
            norm = sum(x[place] ** 2 for x, _ in rows)
            if norm:
                left = sum(x[place] * (y - sum(f * part for f, part in zip(factors, x, strict=True))) for x, y in rows)
                factors[place] = max(0.0, factors[place] + left / norm)
    return factors


def module(lines: dict[str, list[tuple[float, ...]]]) -> str:
    """Return the source of `tertulia._rules.routing_costs`."""
    machine = describe_machine()
    how = "Time of the processor, for NATS on the wall" if "--cpu" in sys.argv else "Time on the wall"
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, {machine['python']}"
    parts = [
        '"""What each channel costs, as measured by `python -m bench.routing_costs`, which prints this module.',
        "",
        f"Measured on {datetime.now(UTC).date()}: {where}.",
        f"{how}. Only where a router starts: it learns from there.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from tertulia._rules.routing import Line",
        "",
        "# By engine, in the order of the channels: message, pointer, memory, request. Seconds, see Line.",
        "LINES: dict[str, tuple[Line, Line, Line, Line]] = {",
    ]
    for engine, found in lines.items():
        parts.append(f'    "{engine}": (')
        parts += [f"        Line({', '.join(f'{number:.3g}' for number in line)})," for line in found]
        parts.append("    ),")
    return "\n".join([*parts, "}"])


async def _main() -> None:
    lines: dict[str, list[tuple[float, ...]]] = {}
    async with spaces() as urls:
        for engine, url in urls.items():
            samples = await measure(url, process_time if "--cpu" in sys.argv and engine != "nats" else perf_counter)
            lines[engine] = [fit(samples, channel) for channel in Channel]
            for (channel, size, readers), values in samples.items():
                sent, read = (median(one[place] for one in values) * 1e6 for place in (0, 1))
                what = f"{engine} {channel} {size:>7,} bytes to {readers}"
                print(f"{what}: {sent:,.0f} + {read:,.0f} µs", file=sys.stderr)
    print(module(lines))


if __name__ == "__main__":
    asyncio.run(_main())
