"""An analyst and a writer produce a report on sales from a CSV file: memory and messages used together.

The analyst adds the file up, once for all who ask, and has two colleagues work with the figures: a writer writes the
report, a controller checks that the figures agree. The report is stored and announced in one commit. A second edition
takes the figures from the cache, until the file changes.

Run it with `python examples/sales_report.py`, or with a file of your own: `python examples/sales_report.py FILE.csv`.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import sys
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from tertulia import CollaborationTask, HybridAgent, HybridCommunicationSystem, Reject, connect

SALES = Path(__file__).with_name("sales.csv")  # date, region, product, units, unit_price


@dataclass
class Figures:
    sales: int
    first: str
    last: str
    total: Decimal
    by_region: dict[str, Decimal]
    by_product: dict[str, Decimal]
    by_month: dict[str, Decimal]


def add_up(file: str) -> Figures:
    """Compute the figures of a file; what one would not do twice."""
    amounts: dict[str, defaultdict[str, Decimal]] = {
        column: defaultdict(Decimal) for column in ("region", "product", "month")
    }
    with Path(file).open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    if not rows:
        raise ValueError(f"there are no sales in {Path(file).name}")
    for row in rows:
        amount = int(row["units"]) * Decimal(row["unit_price"])
        for column, by_name in amounts.items():
            by_name[row["date"][:7] if column == "month" else row[column]] += amount
    days = sorted(row["date"] for row in rows)
    total = sum(amounts["month"].values(), Decimal())
    return Figures(len(rows), days[0], days[-1], total, amounts["region"], amounts["product"], amounts["month"])


def report_of(figures: Figures) -> str:
    """Write the report, in words and numbers."""

    def shares(amounts: dict[str, Decimal]) -> str:
        ordered = sorted(amounts.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{name} {amount:,.2f} ({amount / figures.total:.1%})" for name, amount in ordered)

    months = sorted(figures.by_month.items())
    trend = [f"{months[0][0]} {months[0][1]:,.2f}"]
    for (_, before), (month, amount) in itertools.pairwise(months):
        trend.append(f"{month} {amount:,.2f} ({amount / before - 1:+.1%})")
    return "\n".join(
        [
            f"Sales from {figures.first} to {figures.last}",
            f"{figures.sales} sales came to {figures.total:,.2f}.",
            f"By region: {shares(figures.by_region)}.",
            f"By product: {shares(figures.by_product)}.",
            f"By month: {', '.join(trend)}.",
        ]
    )


def hire_writer(system: HybridCommunicationSystem) -> HybridAgent:
    writer = HybridAgent("writer", system)

    @writer.on_task
    async def write(task: CollaborationTask) -> str:
        figures = await task.workspace.get_shared_data("context", getter="writer", type=Figures)
        return report_of(figures)

    return writer


def hire_controller(system: HybridCommunicationSystem) -> HybridAgent:
    controller = HybridAgent("controller", system)

    @controller.on_task
    async def check(task: CollaborationTask) -> str:
        figures = await task.workspace.get_shared_data("context", getter="controller", type=Figures)
        for amounts in (figures.by_region, figures.by_product, figures.by_month):
            if sum(amounts.values()) != figures.total:
                raise Reject(f"{amounts} do not add up to {figures.total}")  # declines, with the reason
        return "the figures agree"

    return controller


async def main() -> None:
    file = str(Path(sys.argv[1]) if len(sys.argv) > 1 else SALES)
    async with connect("memory:") as space:
        system = HybridCommunicationSystem(space)
        analyst = HybridAgent("analyst", system)
        await system.register_agent("reader")
        async with hire_writer(system), hire_controller(system):
            for _edition in range(2):
                figures = await analyst.get_or_compute("figures", lambda: add_up(file), tags=["sales"], type=Figures)
                done = await analyst.collaborate("a report on the sales", ["writer", "controller"], figures)
                done.raise_for_missing()
                print(f"controller: {done.results['controller']}")
                # The report and the news of it are one commit: nobody hears of a report that is not there.
                await analyst.write_and_notify("report", done.results["writer"], notify=["reader"])

                news = await space.broker.receive("reader", timeout=10)
                assert news is not None, "the reader is told of every edition"
                await news.acknowledge()
                told = news.message.content
                print(f"reader hears from {told['writer']}: {told['key']!r} is at version {told['version']}")

        print(await space.memory.read("report", reader="reader"))
        cache = system.cache_info()
        print(f"the figures were computed {cache.computed} time, and taken from the cache {cache.hits} time")
        print(f"cached keys to take back when the file changes: {await system.invalidate(tag='sales')}")


if __name__ == "__main__":
    asyncio.run(main())
