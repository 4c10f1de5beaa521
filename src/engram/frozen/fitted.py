"""Rows of a view as a backbone takes them, for all who load one."""

from engram.errors import InputError
from engram.planning import components


def fit(spec, view):
    """How rows of a view become what a backbone takes.

    Args:
        spec: dict with `backbone`, its kind and options, and `takes`, where its rows have to be
            something else than its kind declares.
        view: header of the view.

    Returns:
        `engram.frozen.contract.Fit`, which converts rows; None if a backbone takes any rows of
        that kind.

    Raises:
        InputError: it takes other rows.
    """
    kind = spec["backbone"]["kind"]
    whats, others = components.taken(spec)
    _refuse_others(whats, view, kind)
    return components.module("frozen", "contract").fit(others, view, kind) if others else None


def _refuse_others(whats, view, kind):
    """Refuse rows that are none of `whats`, {kind of rows: facts that their view has to state}."""
    if view["what"] not in whats:
        raise InputError(
            f"backbone {kind} takes {' or '.join(whats)} rows, but the view holds {view['what']} "
            "rows; choose another view or backbone"
        )
    for fact in whats[view["what"]]:
        if view.get(fact) in (None, []):
            raise InputError(
                f"backbone {kind} needs a view that states `{fact}`, but this {view['what']} does "
                "not; choose another view"
            )
