"""Small data that the tests of the estimators share."""

import numpy as np

RNG = np.random.RandomState(0)
#: Inputs in very different units.
X = RNG.randn(60, 3) * [1.0, 100.0, 0.01] + [0.0, 50.0, 1.0]
Z = (X - [0.0, 50.0, 1.0]) / [1.0, 100.0, 0.01]
#: Numbers, far from zero; two columns of them.
NUMBERS = 1000 + 10 * (Z[:, 0] - Z[:, 1] ** 2) + RNG.randn(60)
COLUMNS = np.stack([NUMBERS, 0.001 * Z[:, 2]], axis=1)
#: Three classes with names, two, and two labels that do not exclude each other.
NAMES = np.array(["low", "middle", "high"])[np.digitize(Z[:, 0], [-0.5, 0.5])]
TWO = np.where(Z[:, 1] + Z[:, 2] > 0, "yes", "no")
LABELS = np.stack([Z[:, 0] > 0, Z[:, 1] > 0], axis=1).astype(int)
