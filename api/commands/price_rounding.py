"""Shows what rounding up adds to a small request, model by model: `taximeter prices rounding`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import click

from taximeter.meter.pricing import Counts, Pricer, UnpricedModel

MORE_MAX: Final = Fraction(1, 10)
"""What rounding may add before a model stands in the table."""
SHOWN: Final = 15


@dataclass(frozen=True, slots=True)
class Rounded:
    """One model: what a request costs in millicredits, exactly and as charged, and how many
    credits a dollar must be for rounding to add no more than MORE_MAX.
    """

    model: str
    exact: Fraction
    charged: int
    needed: Fraction

    @property
    def more(self) -> Fraction:
        """What rounding adds, as a part of the exact cost."""
        return (self.charged - self.exact) / self.exact

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "exact_millicredits": float(self.exact),
            "charged_millicredits": self.charged,
            "more": float(self.more),
            "credits_per_dollar_needed": float(self.needed),
        }


def rounded(pricer: Pricer, credits: Decimal, prompt: int, output: int) -> Iterator[Rounded]:
    """Every model of the list in force that such a request costs something at; `credits` is what a
    dollar is now.
    """
    counts = Counts({"input": prompt, "output": output}, prompt, output)
    for model in pricer.names():
        try:
            price = pricer.price(model)
        except UnpricedModel:
            continue
        exact = price.exact_of(counts)
        if exact:
            # Rounding adds less than one millicredit.
            needed = Fraction(credits) / (exact * MORE_MAX)
            yield Rounded(price.identity, exact, price.cost_of(counts), needed)


def report(
    pricer: Pricer,
    credits: Decimal,
    prompt: int,
    output: int,
    *,
    show_all: bool,
    as_json: bool,
) -> None:
    """Print the models at which rounding adds more than a tenth, the most first."""
    every = {one.model: one for one in rounded(pricer, credits, prompt, output)}
    found = [one for one in every.values() if one.more > MORE_MAX]
    found.sort(key=lambda one: (-one.more, one.model))
    if as_json:
        document = {
            "credits_per_dollar": float(credits),
            "models": len(every),
            "rounded": [one.as_dict() for one in found],
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(
        f"a request of {prompt} prompt and {output} output tokens, {credits:f} credits a dollar"
    )
    click.echo(f"{len(found)} of {len(every)} models cost more than a tenth more by rounding")
    if not found:
        return
    click.echo(f"  {'model':44} {'exact':>10} {'charged':>8} {'more':>8}   a tenth at most with")
    for one in found if show_all else found[:SHOWN]:
        needed = f"{_up(one.needed):,} credits a dollar"
        click.echo(
            f"  {one.model:44} {float(one.exact):>10.4f} {one.charged:>8} {float(one.more):>8.0%}"
            f"   {needed}"
        )
    if len(found) > SHOWN and not show_all:
        click.echo(f"  and {len(found) - SHOWN} more; --all shows them")


def _up(number: Fraction) -> int:
    """A round number that is no less: the next power of ten times 1, 2 or 5."""
    step = 1
    while True:
        for times in (1, 2, 5):
            if times * step >= number:
                return times * step
        step *= 10
