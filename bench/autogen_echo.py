"""An echo agent of AutoGen Core; imported only when that is installed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from autogen_core import AgentId, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, message_handler

from bench.rows import CONTENT


@dataclass
class Analysis:
    """The content of every benchmark, as AutoGen takes it: fields of a dataclass."""

    sentiment: str
    confidence: float


REQUEST = Analysis(**CONTENT)


class Echo(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("answers with what it is asked")
        self.count = 0

    @message_handler
    async def answer(self, message: Analysis, ctx: MessageContext) -> Analysis:  # noqa: ARG002 - AutoGen's signature
        self.count += 1
        return message


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Callable[[Analysis], Awaitable[Analysis]], Echo]]:
    """Run a runtime with one echo agent; give the function that asks it, and the agent."""
    runtime = SingleThreadedAgentRuntime()
    await Echo.register(runtime, "echo", Echo)
    address = AgentId("echo", "default")
    echo = await runtime.try_get_underlying_agent_instance(address, Echo)
    runtime.start()

    async def ask(request: Analysis) -> Analysis:
        return await runtime.send_message(request, address)

    try:
        other = Analysis("negative", 0.1)
        assert await ask(other) == other
        yield ask, echo
    finally:
        await runtime.stop()
