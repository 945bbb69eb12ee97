"""Callbacks: what follows a run of `run_epochs`, `hf.fit` or `hf.least_squares`, as in `callbacks=[CSV("run.csv")]`.

A callback is any object with some of these methods; `Callback` and the four protocols it is made of say all of it:

    on_start(run)                                       before the first update
    on_update(epoch_number, update, updates, record)    after each update, numbered from 0 within its epoch
    on_epoch(epoch)                                     after each epoch
    on_end(result)                                      once, however the run ended

`run.judged` says what the errors of the run are of. `epoch` has `number`, `test_error`, `seconds`, `updates` and
`metrics`. If on_update or on_epoch returns True, the run ends. Callbacks change no results. One whose on_update looks
at the records alone has an attribute `records_only = True`: many first-order updates are then still made in one call.

Fields of the records of all optimizers:
    value            the loss before the update, on its own batch; with the weight decay of `HessianFree`
    gradient_norm    norm of its gradient
    update_norm      norm of the change of the parameters
    accepted         whether the parameters were changed
    reason           why they were not, in words, or an empty text; of least squares also why the run is over

Of `HessianFree`, `Auto` and least squares besides:
    new_value        the loss after the update, on the same batch
    damping          lambda of the update
    cg_iterations    iterations of conjugate gradients, or products with J'J; 0 if the update was made without
    reduction_ratio  the change of the loss over that of the model; NaN where the model predicts none

Of `HessianFree` alone:
    cg_stop          why CG stopped: 1 the limit on iterations, 2 little progress, 3 the system is solved, 4 a direction
                     without positive curvature, 5 numbers that are not finite, 6 the preconditioner
    backtracked      stored iterates of CG that were passed over: the update uses the one so many before the last
    preconditioner_damping  the damping that the preconditioner was prepared for; NaN without one
    step_length      the factor on the direction that the line search chose, at most 1; 0 if the update was rejected
    overshot         whether the change before this update proved too long, where it is judged in hindsight
    at_damping_bound whether lambda is at the end of its range

Of `Auto` alone (over first-order steps `value` is the mean of their losses, `new_value` that of the second half):
    phase            "first", "trial" or "second"
    work             all so far, in forward passes of one example
    line             the record of a Hessian-free update in words

Of `hf.least_squares` alone:
    scaled_gradient  the largest |J_j'rho| / (|J_j| |rho|) before the step, which has no unit
    acceleration     twice the length of the second-order correction over that of the step; NaN if there is none
    corrections      of a step by evaluations of the residuals, with more than 32 parameters
    contraction      by how much a correction is shorter than the one before it; the damping follows it
    attempts         steps that were tried
    degenerate       whether a direction of the parameters has nearly no effect
    status           1 to 3 if the run has converged, 4 if it is stuck, 5 if the loss is not finite; 0 to go on
"""

from hessianfree.training.logs import CSV as CSV
from hessianfree.training.logs import TensorBoard as TensorBoard
from hessianfree.training.protocols import Callback as Callback
from hessianfree.training.protocols import OnEnd as OnEnd
from hessianfree.training.protocols import OnEpoch as OnEpoch
from hessianfree.training.protocols import OnStart as OnStart
from hessianfree.training.protocols import OnUpdate as OnUpdate
