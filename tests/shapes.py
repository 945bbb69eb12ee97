"""What checks the types, shapes included, of the modules named in conftest.py while the tests run."""

from __future__ import annotations

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

#: An int passes where a float is expected, as for mypy.
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function):
    """Check a function at every call, unless its types cannot be checked at run time: protocols, mostly."""
    try:
        return _checked(function)
    except BeartypeDecorHintException:
        return function
