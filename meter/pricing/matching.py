"""Judges whether the published list means a model by a name, and not only something that sounds
like it.

The list matches by beginnings and parts of names, so that `gemini-2.5-pro-ultra` finds the price of
`gemini-2.5-pro`, and a distilled model that of the model it was distilled from. A wrong price is
worse than none: a name counts only if what it has beyond the matched words is a date, a version or
the like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

# What may follow the name of a model and still mean it.
_WORDS: Final = (
    # Dates, as in 20241022, 0613 and 05-20.
    r"\d{4}-\d{2}-\d{2}|\d{8}|\d{6}|\d{2}-\d{4}|\d{2}-\d{2}|\d{3,4}"
    r"|v\d+(?:\.\d+)?(?::\d+)?|latest|default|preview|exp|experimental|stable"
)
_REST: Final = re.compile(rf"(?:\d{{2,8}}(?:-\d{{2}}){{0,2}})?(?:[-@:_](?:{_WORDS}))*[-@:]?")
# What may stand before it where the list looks for a part of the name: a maker, and no other part
# of the world, where prices differ.
_BEFORE: Final = re.compile(r"(?:us\.)?(?:(?!apac\.|global\.)[a-z0-9]{4,}\.)?")
_FINE_TUNED: Final = re.compile(r"(ft:[^:]+)(?::[^:]*){1,3}")


def is_alias(name: str, of: str) -> bool:
    """Whether a name is another one with a date, a version or the like behind it; both in small
    letters.
    """
    return name.startswith(of) and _REST.fullmatch(name, len(of)) is not None


class Shelf:
    """The models of one seller, found by name: most names are written out in the list, and only the
    rest is looked through.
    """

    def __init__(self, models: Iterable[ModelInfo]) -> None:
        models = list(models)
        self.names: Final = sorted(model.id.lower() for model in models)
        self._exact = {name: model for model in reversed(models) for name in _exact_names(model)}
        self._exact |= {model.id.lower(): model for model in reversed(models)}
        self._loose = [model for model in models if not _is_exact(model.match)]

    def find(self, name: str) -> ModelInfo | None:
        """The model that is meant by a name in small letters, or None."""
        tuned = _FINE_TUNED.fullmatch(name)
        if tuned:
            name = tuned[1]
        if (model := self._exact.get(name)) is not None:
            return model
        return next((model for model in self._loose if _matches(model.match, name)), None)


def _exact_names(model: ModelInfo) -> list[str]:
    match: Any = model.match
    clauses = match.or_ if type(match).__name__ == "ClauseOr" else [match]
    return [one.equals.lower() for one in clauses if type(one).__name__ == "ClauseEquals"]


def _is_exact(clause: Any) -> bool:
    kind = type(clause).__name__
    return kind == "ClauseEquals" or (kind == "ClauseOr" and all(map(_is_exact, clause.or_)))


def _matches(clause: Any, name: str) -> bool:
    kind = type(clause).__name__
    if kind == "ClauseOr":
        return any(_matches(one, name) for one in clause.or_)
    if kind == "ClauseAnd":
        return all(one.is_match(name) for one in clause.and_) and any(
            _matches(one, name) for one in clause.and_
        )
    if kind == "ClauseEquals":
        return name == str(clause.equals).lower()
    if kind == "ClauseStartsWith":
        return _is_around(name, str(clause.starts_with).lower(), before=False)
    if kind in ("ClauseContains", "ClauseEndsWith"):
        words = clause.contains if kind == "ClauseContains" else clause.ends_with
        return _is_around(name, str(words).lower(), before=True)
    if kind == "ClauseRegex":
        found = re.match(clause.regex, name)
        # One that consumes nothing only excludes.
        return (
            found is not None
            and found.end() > 0
            and _REST.fullmatch(name[found.end() :]) is not None
        )
    return False


def _is_around(name: str, words: str, *, before: bool) -> bool:
    head, found, tail = name.partition(words)
    if not found or not _REST.fullmatch(tail):
        return False
    return not head or (before and _BEFORE.fullmatch(head) is not None)
