from __future__ import annotations

import numpy as np
import pytest

import hessianfree as hf
from hessianfree import loss_funcs as lf
from hessianfree.networks.parts.loss_funcs import BY_NAME, named

import dense

OUTPUT = {"SquaredError": lf.SquaredError, "CrossEntropy": lf.CrossEntropy, "BinaryCrossEntropy": lf.BinaryCrossEntropy}


def example(seed=0):
    rng = np.random.RandomState(seed)
    activities = [rng.randn(4, 2), 0.2 + 0.6 * rng.rand(4, 3), 0.2 + 0.6 * rng.rand(4, 2)]
    return activities, rng.rand(4, 2)


@pytest.mark.parametrize("name", OUTPUT)
@pytest.mark.parametrize("with_nan", [False, True])
def test_output_losses_and_derivatives(name, with_nan):
    loss, (a, t) = OUTPUT[name](), example()
    if with_nan:
        t[0, 1] = t[2] = np.nan
    value, d, d2 = loss.loss(a, t), loss.d_loss(a, t), loss.d2_loss(a, t)
    assert value[:2] == d[:2] == d2[:2] == [None, None]
    per_example = lambda o: dense.loss(name, o, t)
    np.testing.assert_allclose(value[2], per_example(a[2]), rtol=1e-12)
    assert loss.batch_loss(a, t) == pytest.approx(per_example(a[2]).mean())
    H = dense.hessian_blocks(per_example, a[2])
    gradient = np.stack(
        [(per_example(a[2] + 1e-6 * e) - per_example(a[2] - 1e-6 * e)) / 2e-6 for e in np.eye(2)], axis=-1
    )
    np.testing.assert_allclose(d[2], gradient, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(d2[2], np.einsum("bii->bi", H), rtol=1e-3, atol=1e-5)


def test_targets_of_zero_forgive_an_output_of_zero():
    o, t = [None, np.array([[0.0, 1.0]])], np.array([[0.0, 1.0]])
    for terms in (lf.CrossEntropy().loss(o, t), lf.CrossEntropy().d_loss(o, t), lf.CrossEntropy().d2_loss(o, t)):
        assert np.isfinite(terms[-1]).all()


def test_saturated_outputs_have_a_finite_binary_cross_entropy():
    o, t = np.array([[0.0, 1.0, 1.0]], np.float32), np.array([[1.0, 0.0, 1.0]], np.float32)
    loss = lf.BinaryCrossEntropy()
    for terms in (loss.loss([o], t), loss.d_loss([o], t), loss.d2_loss([o], t)):
        assert np.isfinite(terms[-1]).all()


def test_a_matched_binary_cross_entropy_keeps_its_digits_in_float32():
    net = hf.FFNet([1, 1], loss_type=lf.BinaryCrossEntropy())
    net.W = [16.0, 0.0]
    net.cache_minibatch([[1.0]], [[1.0]])
    assert net.error() == pytest.approx(np.log1p(np.exp(-16.0)), rel=1e-5)
    np.testing.assert_allclose(net.calc_grad(), -1 / (1 + np.exp(16.0)), rtol=1e-5)


def test_classification_error_counts_mistakes_on_known_targets():
    o = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.6, 0.4]])
    t = np.array([[1.0, 0], [1, 0], [0, 1], [np.nan, np.nan]])
    assert lf.ClassificationError().batch_loss([None, o], t) == pytest.approx(2 / 4)


def test_penalties_name_a_layer_that_does_not_exist():
    a, t = example()
    with pytest.raises(ValueError, match="layers 0 to 2"):
        lf.SparseL2(0.1, layers=[3]).loss(a, t)
    assert [term is not None for term in lf.SparseL1(0.1, layers=[-1]).loss(a, t)] == [False, False, True]


def test_penalties_act_on_hidden_layers_by_default():
    a, t = example()
    assert [term is not None for term in lf.SparseL2(0.1).loss(a, t)] == [False, True, False]
    np.testing.assert_allclose(lf.SparseL1(0.1, target=0.5).loss(a, t)[1], 0.1 * abs(a[1] - 0.5), rtol=1e-12)


@pytest.mark.parametrize("weight", [-1.0, np.nan])
def test_a_weight_must_not_be_negative(weight):
    with pytest.raises(ValueError, match="weight"):
        lf.SparseL1(weight)


def test_a_set_flattens_and_refuses_what_is_no_loss():
    inner = lf.LossSet([lf.SquaredError(), lf.SparseL2(0.1)])
    assert len(lf.LossSet([inner, lf.SparseL1(0.1)]).set) == 3
    with pytest.raises(TypeError, match="LossFunction"):
        hf.FFNet([2, 1], loss_type=[3])


def test_losses_have_names():
    mixed = hf.FFNet([2, 1], loss_type=["squared_error", lf.SparseL1(0.1, [1])]).loss
    assert [type(part) for part in mixed.set] == [lf.SquaredError, lf.SparseL1]
    for name, kind in BY_NAME.items():
        assert type(named(name)) is kind
    assert type(hf.FFNet([2, 1], loss_type="binary_cross_entropy").loss) is lf.BinaryCrossEntropy
    assert type(hf.FFNet([2, 2], layers="Softmax", loss_type="cross_entropy").loss) is lf.CrossEntropy


def test_the_base_class_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="must define loss"):
        lf.LossFunction().loss([], None)


def test_derivatives_of_a_set_are_sums():
    a, t = example()
    parts = [lf.SquaredError(), lf.SparseL2(0.3, layers=[1]), lf.SparseL2(0.2, layers=[1, 2]), lf.SparseL1(0.1)]
    whole = lf.LossSet(parts)
    for method in ("d_loss", "d2_loss"):
        lists = [getattr(part, method)(a, t) for part in parts]
        for layer, found in enumerate(getattr(whole, method)(a, t)):
            present = [terms[layer] for terms in lists if terms[layer] is not None]
            if not present:
                assert found is None
            else:
                np.testing.assert_allclose(found, sum(present), rtol=1e-12)


@pytest.mark.parametrize("targets", [np.zeros(4), np.zeros((4, 1)), np.zeros((3, 2))])
def test_targets_of_another_shape_are_no_broadcast(targets):
    a, _ = example()
    for loss in (lf.SquaredError(), lf.ClassificationError()):
        with pytest.raises(ValueError, match="must agree"):
            loss.batch_loss(a, targets)


def test_lists_are_targets_too():
    a, t = example()
    assert lf.SquaredError().batch_loss(a, t.tolist()) == lf.SquaredError().batch_loss(a, t)


def test_weights_can_be_plain_numbers_later():
    a, t = example()
    penalty = lf.SparseL2(0.1, layers=[1])
    penalty.weight, penalty.target = 0.5, 0.25
    np.testing.assert_allclose(penalty.loss(a, t)[1], 0.25 * (a[1] - 0.25) ** 2, rtol=1e-12)
    damping = lf.StructuralDamping(0.1, layers=[1])
    damping.weight = 0.7
    np.testing.assert_allclose(damping.d2_loss(a, t)[1], 0.7)


def test_structural_damping_wants_an_optimizer_with_damping():
    with pytest.raises(TypeError, match="damping"):
        lf.StructuralDamping(0.1, optimizer=hf.opt.SGD())


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="at least one loss"):
        hf.FFNet([2, 1], loss_type=[])


@pytest.mark.parametrize("layer", ["Linear", "Tanh", "ReLU"])
def test_binary_cross_entropy_wants_outputs_between_zero_and_one(layer):
    with pytest.raises(ValueError, match="Logistic"):
        hf.FFNet([2, 1], layers=layer, loss_type=lf.BinaryCrossEntropy())


@pytest.mark.parametrize(
    "loss",
    [
        *(lf.SquaredError(), lf.CrossEntropy(), lf.BinaryCrossEntropy()),
        *(lf.SparseL1(0.1), lf.SparseL2(0.1, target=[0.1, 0.2, 0.3]), lf.StructuralDamping(0.1)),
    ],
)
def test_built_in_losses_are_compiled(loss):
    """Not run on the host, which would be right too, and slow."""
    from hessianfree.networks.numpy import probing as host

    for shapes in ([(2,), (3,), (2,)], [(5, 2), (5, 3), (5, 2)]):
        assert host.why_loss_is_untraceable(loss, shapes, np.dtype(np.float32)) == ""
