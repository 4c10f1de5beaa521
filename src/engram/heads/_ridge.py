"""Ridge regression of numbers whose penalty is chosen within the training rows, in closed form.

One decomposition of the training rows, of features where these are fewer and of rows where rows
are fewer (Saunders et al., ICML 1998), serves every penalty and every run.
"""

import numpy as np

from engram import training
from engram.errors import InputError
from engram.progress import progress
from engram.training import inputs


def fit(task, source, alphas) -> training.Fit:
    """Fit every fold and run on rows standardised by those that are fitted on.

    Every subject weighs the same, however many rows it has. Of `alphas` each model takes the one
    whose squared error is lowest when each of its subjects in turn is left out: e_g =
    (I - H_gg)^-1 (y - H y)_g, the exact residuals of models that were fitted without subject g
    (block-wise PRESS, Allen 1974). A model of the training rows predicts the validation rows, for
    the choice among inputs; one of both predicts the test rows.

    Args:
        task: of numbers.
        source: `training.inputs.Inputs`.
        alphas: strengths of the penalty.

    Raises:
        InputError: `alphas` is empty or not positive, or a fold trains on a single subject.
    """
    if not alphas or min(alphas) <= 0:
        raise InputError("heads: `alpha` of a linear head must list positive numbers")
    subjects, runs = task.table["subject"].to_numpy(str), np.stack([run.y for run in task.runs], 1)
    outputs = np.zeros((len(runs), len(task.runs), 1))
    scores, chosen, states, latent = [], [], [], None
    for fold in progress(task.folds, "fit all folds and runs", "folds"):

        def model(rows, name=fold.name):
            x, state = source.fitted(rows)
            mean, sd = _statistics(x[rows])
            z = (x - mean) / sd
            weight, bias, alpha = _fitted(z[rows], runs[rows], subjects[rows], alphas, name)
            state = inputs.of_runs(state | {"mean": mean, "sd": sd}, len(alpha))
            state |= {"weight": weight.T[:, None], "bias": bias[:, None]}
            return z, z @ weight + bias, alpha, state

        scores.append(np.full(len(task.runs), np.nan))
        if len(fold.validation):
            _, predicted, _, _ = model(fold.train)
            scores[-1] = _validation(runs, subjects, fold, predicted[fold.validation])
        z, predicted, alpha, state = model(fold.known)
        outputs[fold.test, :, 0] = predicted[fold.test]
        latent = z.astype(np.float32) if latent is None else latent
        chosen.append(alpha.tolist())
        states.append(state)
    return training.Fit(
        outputs=outputs[task.tested],
        validation=np.stack(scores),
        state=inputs.stacked(states),
        latent=latent,
        facts={"alpha": chosen},
    )


def _statistics(x):
    x = x.astype(np.float64)
    sd = x.std(0)
    return x.mean(0), np.where(sd > 0, sd, 1.0)


def _fitted(x, y, subjects, alphas, fold):
    """Weights (d, runs), bias (runs,) and alpha (runs,) of the training rows of one fold."""
    names, of_row = np.unique(subjects, return_inverse=True)
    if len(names) < 2:
        raise InputError(
            f"fold {fold}: a single subject trains; a linear head of numbers needs two at least, "
            "to choose its penalty: add subjects, or use fewer folds"
        )
    weights = training.subject_weights(subjects)
    root = np.sqrt(weights)[:, None]
    centre, mean = (np.average(values, axis=0, weights=weights) for values in (x, y))
    z, t = root * (x - centre), root * (y - mean)
    u, s = _decomposed(z)
    groups = [np.flatnonzero(of_row == i) for i in range(len(names))]
    loss = np.stack([_left_out(u, s, t, root, groups, alpha) for alpha in alphas])
    best = loss.argmin(0)
    alpha = np.asarray(alphas, float)[best]
    weight = z.T @ (u @ ((u.T @ t) / (s[:, None] + alpha)))
    return weight, mean - centre @ weight, alpha


def _decomposed(z):
    """Left singular vectors (n, k) and squared singular values (k,) of z, those of rank apart."""
    rows, columns = z.shape
    s, vectors = np.linalg.eigh(z @ z.T if rows <= columns else z.T @ z)
    kept = s > np.finfo(float).eps * max(z.shape) * s.max(initial=0)
    s, vectors = s[kept], vectors[:, kept]
    return (vectors if rows <= columns else z @ vectors / np.sqrt(s)), s


def _left_out(u, s, t, root, groups, alpha):
    """Squared error (runs,) of each group by the model fitted without it; rows scaled by `root`."""
    shrunk = s / (s + alpha)
    residual, total = t - u @ (shrunk[:, None] * (u.T @ t)), (root**2).sum()
    loss = 0.0
    for rows in groups:
        hat = (u[rows] * shrunk) @ u[rows].T + root[rows] @ root[rows].T / total
        loss = loss + (np.linalg.solve(np.eye(len(rows)) - hat, residual[rows]) ** 2).sum(0)
    return loss


def _validation(runs, subjects, fold, predicted):
    """Explained share of the validation rows by every run, (runs,)."""
    inner, outer = (training.subject_weights(subjects[s]) for s in (fold.validation, fold.train))
    means = np.average(runs[fold.train], axis=0, weights=outer)
    pairs = zip(runs[fold.validation].T, predicted.T, means, strict=True)
    return np.array([training.explained(y, p, mean, inner) for y, p, mean in pairs])
