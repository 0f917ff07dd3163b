"""Which column of a table says who is on an image: by its name, and by what it holds."""

from __future__ import annotations

import re
from collections.abc import Mapping

from synthbench.types import UserError

# From the surest to what is also used for something else, as they are spelled without case, _ and -
NAMES = (
    *("identity", "identityid", "identityname", "personid", "person", "personname", "subjectid", "subject", "subjectname", "celebid"),
    *("celebrity", "celeb", "label", "labels", "cls", "class", "classid", "classname", "target", "name", "id"),
)
EARLIER = ("label", "identity", "id", "class", "labels")  # what earlier versions read, the first that was there


def rank(name: str) -> int:
    """The place of a column among NAMES; behind them all for one whose name tells nothing."""
    plain = re.sub("[^a-z]", "", name.lower())
    return NAMES.index(plain) if plain in NAMES else len(NAMES)


def choose(distinct: Mapping[str, int], rows: int, wish: str | None, where: str) -> tuple[str, list[str]]:
    """(the column with the identities, doubts). distinct: how many values each column has that may hold them, of `rows` rows.

    Raises UserError where it cannot be told.
    """
    groups = {name: values for name, values in distinct.items() if 1 < values < rows}
    if wish and wish not in distinct:
        raise UserError(f"{where}: no column {wish!r} of whole numbers or text; there is {_told(distinct)}")
    named = sorted((name for name in distinct if rank(name) < len(NAMES)), key=rank)
    if not wish and not named:
        raise UserError(f"{where}: no column is called like identities (identity, person_id, label, ...); it has {_told(distinct)}. {SAY}")
    chosen = wish or next((name for name in named if name in groups), named[0])
    others = {name: values for name, values in groups.items() if name != chosen}
    if wish or not others:
        return chosen, []
    if distinct[chosen] == rows > 1:
        raise UserError(
            f"{where}: every value of column {chosen!r} is another one, so it may number the images; others put them into groups: "
            f"{_told(others)}. {SAY}"
        )
    alike = {name: values for name, values in others.items() if 2 * distinct[chosen] <= values <= rows / 1.5}
    return chosen, [f"column {name} with {count:,} values may hold identities too: --column {name}" for name, count in alike.items()]


SAY = "Say which: --column NAME of `synthbench data add`"


def _told(distinct: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count:,} values)" for name, count in distinct.items()) or "none"
