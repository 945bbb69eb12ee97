"""What the package says of arguments in Python, said of the options of `hessianfree train`.

Rules of the diagnosis, reasons and warnings name arguments of `run_epochs`, networks and optimizers. On the command
line most of them are options. What has no option, such as a damping rule, stays as it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from hessianfree.console.folder import MODEL, REPORT

_VALUE = r"(\d[\d.e+-]*\d|\d)"
#: What is said in Python, as regular expressions, and what is said here; the first ones first.
WORDS: dict[str, str] = {
    # Sentences
    r"hf\.diagnose\(result\)": REPORT,
    r"early_stopping=False goes on": "--no-early-stopping goes on",
    r"\bmax_epochs or max_seconds": "--epochs or --seconds",
    r"train the same network again": "train --resume",
    r"a learning rate lower by ten, as in SGD\(l_rate=\.\.\.\) or FirstOrder\(optax\.adam\(1e-4\)\)": (
        "a --learning-rate lower by ten"
    ),
    r"a lower learning rate": "a lower --learning-rate",
    r"a higher learning rate, or HessianFree": "a higher --learning-rate, or --optimizer hf",
    r"inputs of mean 0 and deviation 1(: x = .*for test data)?": "inputs of mean 0 and deviation 1, --scale standard",
    r"the best weights, net\.best_W or result\.best_params \(restore_best=True puts them in place\)": (
        f"the best weights, which {MODEL} holds"
    ),
    r"(?<!badly )\bscaled inputs": "--scale standard",
    r"layers=\[\.\.\., 'Linear'\]": "--output-nonlinearity Linear",
    r"W_init_params=\{'coeff': \.\.\.\} or rng=\.\.\.": "--init-scale or --seed",
    rf"W_init_params=\{{'coeff': {_VALUE}\}}": r"--init-scale \1",
    rf"W_rec_params=\{{'spectral_radius': {_VALUE}\}}, or \{{'init_type': 'orthogonal'\}}": (
        r"--spectral-radius \1, or --recurrent-init orthogonal"
    ),
    r"W_rec_params=\{'init_type': 'orthogonal'\}": "--recurrent-init orthogonal",
    r"curvature_batch=None \(all examples\)": "no --curvature-batch (all examples)",
    # Calls and arguments with values
    rf"HessianFree\((CG_iter|weight_decay)={_VALUE}\)": r"\1=\2",
    rf"CG_iter={_VALUE}": r"--cg-iterations \1",
    rf"weight_decay={_VALUE}": r"--weight-decay \1",
    r"preconditioner='?(\w+)'?": r"--preconditioner \1",
    r"dtype=np\.(float\d\d)": r"--dtype \1",
    # Names
    r"\binit_damping\b(?!=)": "--damping",
    r"\bCG_iter\b": "--cg-iterations",
    r"\bminibatch_size\b": "--minibatch",
    r"\bcurvature_batch\b": "--curvature-batch",
}
_PATTERNS = [(re.compile(pattern), said) for pattern, said in WORDS.items()]


def as_options(text: str) -> str:
    """A text of the package, with the options of `train` in place of arguments.

    Example:
        >>> as_options("the test error is worse (early_stopping=False goes on)")
        'the test error is worse (--no-early-stopping goes on)'
        >>> as_options("HessianFree(CG_iter=1000), or preconditioner='kfac'")
        '--cg-iterations 1000, or --preconditioner kfac'
    """
    for pattern, said in _PATTERNS:
        text = pattern.sub(said, text)
    return text


@contextmanager
def warnings_as_options() -> Iterator[None]:
    """Let the package's log speak of options."""
    logger = logging.getLogger("hessianfree")

    def reword(record: logging.LogRecord) -> bool:
        record.msg, record.args = as_options(record.getMessage()), ()
        return True

    logger.addFilter(reword)
    try:
        yield
    finally:
        logger.removeFilter(reword)
