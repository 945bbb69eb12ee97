"""scikit-learn's own checks of estimators, all of them."""

import pytest

pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")

from sklearn.utils.estimator_checks import parametrize_with_checks

from hessianfree.sklearn import HFClassifier, HFRegressor


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([HFClassifier(), HFRegressor()])
def test_check_of_scikit_learn(estimator, check):
    check(estimator)
