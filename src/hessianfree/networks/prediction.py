"""What a network is used for once it is trained: predictions, probabilities, a score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessianfree.networks import describing, rollouts
from hessianfree.networks.core import Floats, NetworkCore
from hessianfree.networks.labels import Labels, given_classes, places_of
from hessianfree.networks.scores import accuracy, r_squared
from hessianfree.networks.sources import GivenExamples, source, to_train_on


class PredictingNetwork(NetworkCore):
    """A network with classes, predictions and a summary."""

    @property
    def classes(self) -> NDArray[Any] | None:
        """The class labels in the order of the outputs, (K,); None if the network knows none.

        They are known from the first run on labels: those that appear in the targets, sorted. Whole numbers from 0 to
        K - 1 are taken as they are, even if some of them do not appear. Set them before the run for another order, or
        where labels that are not whole numbers are missing from the data; set None to make the network forget them.
        """
        return None if self.labels is None else self.labels.classes.copy()

    @classes.setter
    def classes(self, classes: Any) -> None:
        self.labels = None if classes is None else Labels(given_classes(classes, self.output_layer))

    def _outputs(self, inputs: Any) -> Floats:
        """What the last layer puts out, for whole sequences with one label the outputs at the last timestep."""
        x = self.check_inputs(inputs)
        found = rollouts.outputs(self, x)
        if not np.isfinite(found).all():
            rollouts.activations(self, x)  # raises, and names the layer
        return found[:, -1] if self.labels is not None and self.labels.of_sequences else found

    def predict(self, inputs: Any) -> NDArray[Any]:
        """The most likely class of each example if the network knows classes, else the outputs of the last layer.

        Args:
            inputs: (N, n_0), over time (N, T, n_0).

        Returns:
            Labels (N,); over time (N, T), or (N,) if each sequence had one label in the last run. Without classes
            (N, n_out), over time (N, T, n_out).

        Raises:
            ValueError: if inputs have the wrong width, or are NaN or infinite.
            OverflowError: if an activation is not finite, naming the layer.

        Example:
            >>> import hessianfree as hf
            >>> net = hf.FFNet([1, 2], layers="Softmax", loss_type="cross_entropy", rng=0)
            >>> result = net.run_epochs([[0.0], [1.0]], ["low", "high"], hf.opt.HessianFree(), print_period=None)
            >>> net.predict([[-1.0], [2.0]]).tolist()
            ['low', 'high']
        """
        outputs = self._outputs(inputs)
        return outputs if self.labels is None else self.labels.classes[places_of(outputs)]

    def predict_proba(self, inputs: Any) -> Floats:
        """The probability of each class, for Softmax and Logistic outputs.

        Args:
            inputs: (N, n_0), over time (N, T, n_0).

        Returns:
            (N, K) in the order of `classes`; for one Logistic unit (N, 2), the probabilities of no and yes; for several
            Logistic units (N, n_out), the probability that each says yes. Over time (N, T, K), unless each sequence had
            one label in the last run.

        Raises:
            TypeError: if the outputs are of another layer.
            ValueError: if inputs have the wrong width, or are NaN or infinite.
            OverflowError: if an activation is not finite, naming the layer.

        Example:
            >>> import hessianfree as hf
            >>> hf.FFNet([1, 3, 1], rng=0).predict_proba([[0.5]]).shape
            (1, 2)
        """
        output = self.output_layer
        if not (output.is_softmax or output.is_logistic):
            raise TypeError(
                f"The output layer is {output.words}; probabilities come from Softmax or Logistic outputs. predict "
                "gives the outputs as they are."
            )
        outputs = self._outputs(inputs)
        return np.concatenate([1 - outputs, outputs], axis=-1) if output.n_classes == 2 > output.units else outputs

    def score(self, inputs: Any, targets: Any, weights: ArrayLike | None = None) -> float:
        """How good the predictions are, 1 at best: the accuracy where there are classes, else R^2.

        Accuracy is the share of examples, over time of timesteps, whose class is predicted. R^2 is 1 minus the squared
        error relative to that of the targets' mean, averaged over the outputs.

        Args:
            inputs: (N, n_0), over time (N, T, n_0).
            targets: labels, (N,) or over time (N, T) too, or numbers (N, n_out), over time (N, T, n_out), NaN for one
                that does not count.
            weights: of the examples, (N,), >= 0; 1 by default.

        Returns:
            The score.

        Raises:
            TypeError: if inputs or targets are of the wrong kind.
            ValueError: if inputs or targets have the wrong shape, or a label is not among the classes.

        Example:
            >>> import hessianfree as hf
            >>> net = hf.FFNet([1, 1], layers="Linear", rng=0)
            >>> x = np.arange(4.0)[:, None]
            >>> result = net.run_epochs(x, 2 * x, hf.opt.HessianFree(), print_period=None)
            >>> round(net.score(x, 2 * x), 3)
            1.0
        """
        data = to_train_on(source(self, inputs, targets, weights))
        if not isinstance(data, GivenExamples):
            raise TypeError(
                "score compares predictions with targets; a plant has none before it runs. Use net.error(None, plant, "
                "None)."
            )
        measure = r_squared if data.labels is None and self.labels is None else accuracy
        return measure(rollouts.outputs(self, data.x), data.t, data.weights)

    def summary(self) -> str:
        """A table of the layers with their units, nonlinearities, incoming connections and weights.

        Returns:
            Text of a few lines: one for each layer, the number of weights, the loss, and the classes if they are known.

        Example:
            >>> import hessianfree as hf
            >>> print(hf.FFNet([2, 5, 1], rng=0).summary())
            layer  units  nonlinearity  from  weights
            0          2  Linear()
            1          5  Logistic()    0          15
            2          1  Logistic()    1           6
            21 weights, float32; loss SquaredError()
        """
        return describing.summary(self)

    def __repr__(self) -> str:
        return describing.short(self)
