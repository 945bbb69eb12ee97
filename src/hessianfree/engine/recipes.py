"""Preconditioners by name."""

from __future__ import annotations

from typing import Any

from hessianfree.engine.kfac import KFAC
from hessianfree.engine.nystrom import Nystrom
from hessianfree.engine.preconditioners import Diagonal, Preconditioner

BY_NAME: dict[Any, Preconditioner | None] = {
    None: None,
    "diagonal": Diagonal(),
    "kfac": KFAC(),
    "nystrom": Nystrom(),
}


def chosen(choice: Any) -> Preconditioner | None:
    """The preconditioner of this name, or the object itself.

    Args:
        choice: a name, an object, or None for none.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> chosen("diagonal").exponent
        0.75
    """
    if choice is None or isinstance(choice, str):
        if choice not in BY_NAME:
            names = ", ".join(repr(name) for name in BY_NAME)
            raise ValueError(
                f"preconditioner is {choice!r}; the choices are {names}, or an object such as hf.opt.KFAC(every=4)."
            )
        return BY_NAME[choice]
    return choice
