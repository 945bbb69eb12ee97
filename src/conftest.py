"""The examples in the docstrings: those of the estimators need scikit-learn, which the extra `test` installs."""

from importlib.util import find_spec

# In a process that looks for the tests, tests/sklearn is a package of that name, but without an origin.
_found = find_spec("sklearn")
collect_ignore = [] if _found is not None and _found.origin else ["hessianfree/sklearn"]
