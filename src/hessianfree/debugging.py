"""Finite-difference checks of everything the solver uses, for networks with `debug=True`."""

from __future__ import annotations

from typing import Any

import numpy as np

