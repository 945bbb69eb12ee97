"""Estimators for scikit-learn, which the extra `sklearn` installs: networks that are fitted, scored and searched."""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        'hessianfree.sklearn needs scikit-learn; install it with: pip install "hessianfree-jax[sklearn]"'
    ) from error

from hessianfree.sklearn.classifier import HFClassifier
from hessianfree.sklearn.regressor import HFRegressor

__all__ = ["HFClassifier", "HFRegressor"]
