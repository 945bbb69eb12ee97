"""What to say of a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Collection

#: What other programs call nonlinearities, losses and optimizers, in lower case, and the names here.
ELSEWHERE = {
    "sigmoid": ("Logistic",),
    "identity": ("Linear",),
    "mse": ("squared_error",),
    "mean_squared_error": ("squared_error",),
    "l2": ("squared_error",),
    "bce": ("binary_cross_entropy",),
    "nll": ("cross_entropy", "softmax_cross_entropy"),
    "categorical_crossentropy": ("cross_entropy", "softmax_cross_entropy"),
    "hessianfree": ("hf",),
    "hessian_free": ("hf",),
}


def unknown_name(what: str, given: str, names: Collection[str]) -> str:
    """The message about a name that does not exist: what was probably meant, and the names there are.

    Args:
        what: it would be the name of.
        given: the name.
        names: those that exist.

    Example:
        >>> unknown_name("loss", "l2_eror", ["l1_error", "l2_error"])
        "There is no loss 'l2_eror'. Did you mean 'l2_error'? The names are 'l1_error', 'l2_error'."
        >>> unknown_name("key", "colour", ["data", "target"])
        "There is no key 'colour'. The names are 'data', 'target'."
    """
    meant = nearest(given, names)
    question = "" if meant is None else f" Did you mean {meant!r}?"
    return f"There is no {what} {given[:60]!r}.{question} The names are {', '.join(map(repr, names))}."


def nearest(given: str, names: Collection[str]) -> str | None:
    """The name that was probably meant, by what it is called elsewhere or by its letters; None if none is close.

    Example:
        >>> nearest("MSE", ["squared_error"]), nearest("sqared-error", ["squared_error"])
        ('squared_error', 'squared_error')
    """
    for name in ELSEWHERE.get(given.lower(), ()):
        if name in names:
            return name
    plain = {_letters(name): name for name in names}
    near = difflib.get_close_matches(_letters(given), plain, n=1)
    return plain[near[0]] if near else None


def _letters(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
