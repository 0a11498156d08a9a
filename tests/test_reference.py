"""Official numbers: every key of every file is checked, or stands in the table of what is not, with the reason.

``pytest tests/test_reference.py --reference DIR`` runs on other files of the same layout. A file of an unknown
family fails, and so does an unknown key: nothing is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scarce_cli.evaluation.choose_c import Scoring, choose_c, stratified_folds
from scarce_cli.evaluation.collapse import collapse_metrics
from scarce_cli.evaluation.geometry import alignment, dimension_std, l2_normalize, uniformity
from scarce_cli.evaluation.logistic import LinearModel, fit_logistic
from scarce_cli.evaluation.spectrum import effective_rank, numerical_rank, rankme, singular_values
from scarce_cli.evaluation.statistics import auc
from scarce_cli.methods.spark import draw_visible, patch_statistics, reconstruction_loss, to_patches, visible_count

COPIES = Path(__file__).parent / "reference"
EXACT = 1e-9  # relative, for float64 numbers

Data = Mapping[str, NDArray[np.generic]]
Check = Callable[[Data], None]


@dataclass(frozen=True)
class Family:
    """What is done with each key of a family's files."""

    checks: Mapping[str, Check]
    unchecked: Mapping[str, str]  # key -> why: an input, or what is not built yet
    optional: frozenset[str] = frozenset()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each file."""
    if "file" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("--reference")
    folder = COPIES if given is None else metafunc.config.invocation_params.dir / given
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise pytest.UsageError(f"no .npz file in {folder}")
    metafunc.parametrize("file", files, ids=lambda path: path.stem)


def test_reference(file: Path) -> None:
    family = FAMILIES.get(file.name.partition("__")[0])
    assert family is not None, f"{file.name}: no test knows this family"
    with np.load(file, allow_pickle=False) as archive:
        data = {name: archive[name] for name in archive.files}
    unknown = data.keys() - family.checks.keys() - family.unchecked.keys()
    assert not unknown, f"{file.name}: no test knows these keys: {sorted(unknown)}"
    missing = (family.checks.keys() | family.unchecked.keys()) - family.optional - data.keys()
    assert not missing, f"{file.name} lacks {sorted(missing)}"
    for check in dict.fromkeys(check for name, check in family.checks.items() if name in data):
        check(data)  # one check may stand for several keys


def test_no_key_is_both_checked_and_excused() -> None:
    for family in FAMILIES.values():
        assert not family.checks.keys() & family.unchecked.keys()


def close(found: object, data: Data, key: str, *, rtol: float = EXACT, atol: float = 0.0) -> None:
    """Equal within ``rtol``; ``atol`` in units of the largest number."""
    wanted = np.asarray(data[key], np.float64)
    size = np.abs(wanted).max(initial=0.0)
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=rtol, atol=atol * size, err_msg=key)


def close_f32(found: object, data: Data, key: str) -> None:
    """For float64 results that were stored as float32."""
    close(found, data, key, rtol=2e-6, atol=1e-6)


# SparK's loss -----------------------------------------------------------------------------------------------


def _spark(data: Data, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    image, prediction = (torch.from_numpy(np.asarray(data[name])).to(dtype) for name in ("image", "pred"))
    return image, prediction, torch.from_numpy(np.asarray(data["active"])), int(data["patch"])


def _spark_loss(data: Data) -> None:
    image, prediction, active, patch = _spark(data)
    close(reconstruction_loss(prediction, image, active, patch), data, "loss")
    image, prediction, active, patch = _spark(data, torch.float32)
    found = reconstruction_loss(prediction, image, active, patch)
    close(found, data, "loss", rtol=1e-3 if data["image"].std() < 1e-3 else 1e-4)


def _spark_gradient(data: Data) -> torch.Tensor:
    image, prediction, active, patch = _spark(data)
    prediction.requires_grad_()
    reconstruction_loss(prediction, image, active, patch).backward()
    assert prediction.grad is not None
    return prediction.grad


def _spark_each_patch(data: Data) -> NDArray[np.float64]:
    """The loss with one patch masked at a time is that patch's error."""
    image, prediction, active, patch = _spark(data)
    errors = np.zeros(active.flatten(1).shape)
    for film, place in np.ndindex(errors.shape):
        visible = torch.ones_like(active)
        visible[film].view(-1)[place] = False
        errors[film, place] = float(reconstruction_loss(prediction, image, visible, patch))
    return errors


def _spark_statistics(data: Data, which: int, key: str) -> None:
    image, _, _, patch = _spark(data)
    close(patch_statistics(image, patch)[which][..., 0], data, key, atol=1e-15)


def _spark_masked_patches(data: Data) -> None:
    """As many patches get a gradient as are masked; visible ones get exactly none."""
    moved = to_patches(_spark_gradient(data), int(data["patch"])).abs().amax(dim=-1) > 0
    assert int(moved.sum()) == int(data["n_masked"])
    assert not (moved & torch.from_numpy(np.asarray(data["active"])).flatten(1)).any()


def _spark_painted(data: Data) -> None:
    """Masked patches in grey values: the prediction times the patch's std, plus its mean."""
    image, prediction, active, patch = _spark(data)
    mean, std = patch_statistics(image, patch)
    painted = to_patches(prediction, patch) * std + mean
    mixed = torch.where(active.flatten(1)[..., None], to_patches(image, patch), painted)
    wanted = {"vis_rec_or_inp": to_patches(torch.from_numpy(np.asarray(data["vis_rec_or_inp"])), patch).numpy()}
    close_f32(mixed, wanted, "vis_rec_or_inp")


SPARK_LOSS = Family(
    checks={
        "loss": _spark_loss,
        "grad_pred": lambda data: close_f32(_spark_gradient(data), data, "grad_pred"),
        "per_patch_l2": lambda data: close(_spark_each_patch(data), data, "per_patch_l2"),
        "patch_mean": lambda data: _spark_statistics(data, 0, "patch_mean"),
        "patch_std": lambda data: _spark_statistics(data, 1, "patch_std"),
        "n_masked": _spark_masked_patches,
        "vis_rec_or_inp": _spark_painted,
    },
    unchecked=dict.fromkeys(("image", "pred", "active", "patch"), "input"),
)


def _mask_counts(data: Data) -> None:
    for row in np.asarray(data["columns_inputsize_ratio_f_lenkeep_nmasked_truncatedalternative"], np.float64):
        size, ratio, side, kept, masked, truncated = row
        assert side == size // 32
        assert visible_count(int(side), ratio) == kept
        visible = draw_visible(3, int(side), ratio, torch.Generator().manual_seed(0))
        assert (visible.logical_not().flatten(1).sum(dim=1) == masked).all()
        assert truncated == int(side * side * ratio)  # what we do not do


MASK_COUNTS = Family(
    checks={"columns_inputsize_ratio_f_lenkeep_nmasked_truncatedalternative": _mask_counts}, unchecked={}
)


# Collapse ---------------------------------------------------------------------------------------------------


def _effective_rank(data: Data) -> None:
    found = collapse_metrics(np.asarray(data["features"])).effective_rank
    assert (found is None) == bool(data["effective_rank_undefined"])
    if found is not None:
        close(found, data, "effective_rank_centered")
        assert found <= min(len(data["features"]) - 1, data["features"].shape[1]) + EXACT


def _std(data: Data) -> None:
    found = collapse_metrics(np.asarray(data["features"]))
    np.testing.assert_allclose(found.std, data["mean_std_l2normalized_unbiased"], rtol=EXACT, atol=1e-15)
    assert found.relative_std == pytest.approx(found.std * found.dimensions**0.5)


def _cosine(data: Data) -> None:
    found = collapse_metrics(np.asarray(data["features"])).mean_cosine
    np.testing.assert_allclose(found, data["mean_pairwise_cosine_all_pairs"], rtol=EXACT, atol=1e-15)


def _rankme(data: Data, key: str, *, centred: bool) -> None:
    found = rankme(np.asarray(data["features"]), centred=centred)
    assert (found is None) == np.isnan(data[key])
    if found is not None:
        close(found, data, key)


def _values(data: Data, key: str, *, centred: bool) -> None:
    """Values far below the largest are rounding on both sides."""
    close(singular_values(np.asarray(data["features"]), centred=centred), data, key, atol=1e-14)


def _stds(data: Data, key: str, *, unbiased: bool) -> None:
    """A dimension of one value has the std 0 or a rounding of that value."""
    found = dimension_std(np.asarray(data["features"]), unbiased=unbiased)
    rounding = 1e-15 * np.abs(np.asarray(data["features"], np.float64)).max()
    found = found.mean() if key.startswith("mean") else found
    np.testing.assert_allclose(found, data[key], rtol=EXACT, atol=rounding, err_msg=key)


def _uniformity(data: Data) -> None:
    """The official sum of exponentials near 1 holds no more than 1e-16."""
    np.testing.assert_allclose(uniformity(np.asarray(data["features"])), data["uniformity_t2"], rtol=EXACT, atol=1e-15)


def _alignment(data: Data) -> None:
    found = alignment(np.asarray(data["features"]), np.asarray(data["features_pos"]))
    np.testing.assert_allclose(found, data["alignment_alpha2"], rtol=EXACT, atol=1e-20)


def _numerical_rank(data: Data) -> None:
    assert numerical_rank(np.asarray(data["features"])) == data["numerical_rank_centered"]


COLLAPSE = Family(
    checks={
        "std_biased_per_dim": lambda data: _stds(data, "std_biased_per_dim", unbiased=False),
        "mean_std_biased": lambda data: _stds(data, "mean_std_biased", unbiased=False),
        "std_unbiased_per_dim": lambda data: _stds(data, "std_unbiased_per_dim", unbiased=True),
        "mean_std_unbiased": lambda data: _stds(data, "mean_std_unbiased", unbiased=True),
        "mean_std_l2normalized_unbiased": _std,
        "mean_pairwise_cosine_all_pairs": _cosine,
        "singular_values_centered": lambda data: _values(data, "singular_values_centered", centred=True),
        "singular_values_uncentered": lambda data: _values(data, "singular_values_uncentered", centred=False),
        "effective_rank_centered": _effective_rank,
        "effective_rank_undefined": _effective_rank,
        "effective_rank_uncentered": lambda data: close(
            effective_rank(np.asarray(data["features"]), centred=False), data, "effective_rank_uncentered"
        ),
        "rankme_uncentered_eps1e_7": lambda data: _rankme(data, "rankme_uncentered_eps1e_7", centred=False),
        "rankme_centered_eps1e_7": lambda data: _rankme(data, "rankme_centered_eps1e_7", centred=True),
        "alignment_alpha2": _alignment,
        "uniformity_t2": _uniformity,
        "numerical_rank_centered": _numerical_rank,
    },
    unchecked={"features": "input", "features_pos": "input"},
)


# Few-shot probe ---------------------------------------------------------------------------------------------


def _films(data: Data) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Training and test features as the classifier sees them."""
    parts = [np.asarray(data[name], np.float64) for name in ("features_train", "features_test")]
    train, test = map(l2_normalize, parts) if data["l2_normalize_first"] else parts
    return train, test


def _models(data: Data) -> list[LinearModel]:
    train, _ = _films(data)
    return [fit_logistic(train, np.asarray(data["labels_train"]) == 1, float(c)) for c in np.asarray(data["Cs"])]


def _decisions(data: Data, part: int) -> NDArray[np.float64]:
    films = _films(data)[part]
    return np.stack([model.scores(films) for model in _models(data)])


def _newton_intercept(data: Data) -> None:
    found = [model.intercept for model in _models(data)]
    np.testing.assert_allclose(found, data["newton_intercept"], rtol=EXACT, atol=1e-12)  # 0 by symmetry for N = 2


def _coef(data: Data) -> None:
    """scikit-learn's own distance from the optimum is the tolerance, and the rounding to float32."""
    for model, wanted, far in zip(
        _models(data), np.asarray(data["coef"]), data["max_abs_coef_diff_sklearn_vs_newton"], strict=True
    ):
        rounding = 1e-6 * np.abs(wanted).max()
        np.testing.assert_allclose(model.coef, wanted, rtol=2e-6, atol=float(far) * 1.01 + rounding)


def _no_farther(found: object, data: Data, key: str, reference: str) -> None:
    """Not farther from scikit-learn's numbers than the optimum is: lbfgs leaves the flat direction of the
    intercept up to 0.002 away."""
    wanted, optimum = np.asarray(data[key], np.float64), np.asarray(data[reference], np.float64)
    allowed = 1.01 * np.abs(optimum - wanted).max() + EXACT * np.abs(wanted).max() + 1e-12
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=allowed, err_msg=key)


def _decision_train(data: Data) -> None:
    """The reference has no optimum for the training films: scikit-learn's distance in each weight bounds it."""
    films, wanted = _films(data)[0], np.asarray(data["decision_train"], np.float64)
    shift = np.abs(np.asarray(data["intercept"]) - np.asarray(data["newton_intercept"])).max()
    far = float(np.max(data["max_abs_coef_diff_sklearn_vs_newton"])) * np.abs(films).sum(axis=1).max() + shift
    np.testing.assert_allclose(_decisions(data, 0), wanted, rtol=1e-6, atol=1.01 * far + 1e-9)


def _accuracy(data: Data) -> None:
    right = (_decisions(data, 1) > 0) == (np.asarray(data["labels_test"]) == 1)
    close(right.mean(axis=1), data, "accuracy_test")


def _auc(data: Data) -> None:
    labels = np.asarray(data["labels_test"]) == 1
    close([auc(row, labels) for row in _decisions(data, 1)], data, "auc_test")


SCORINGS: tuple[Scoring, ...] = ("accuracy", "roc_auc", "neg_log_loss")


def _folds(data: Data) -> None:
    labels, folds = np.asarray(data["labels_train"]) == 1, int(data["cv_n_folds"])
    assert folds == min(5, len(labels) // 2)
    assert (stratified_folds(labels, folds) == data["cv_fold_of_sample"]).all()


def _cross_validation(data: Data, scoring: Scoring) -> None:
    """Shares of films and ranks are exact; scikit-learn's log-loss is as far off as its weights."""
    (train, test), labels = _films(data), np.asarray(data["labels_train"]) == 1
    cs = [float(c) for c in np.asarray(data["Cs"])]
    found = choose_c(train, labels, cs, scoring=scoring, folds=int(data["cv_n_folds"]))
    wanted, loose = np.asarray(data[f"cv_{scoring}_scores"], np.float64), scoring == "neg_log_loss"
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-4 if loose else EXACT, atol=1e-5 if loose else 0)
    assert found.c == data[f"cv_{scoring}_chosen_C"]
    assert found.tied == data[f"cv_{scoring}_tied_best"]
    model = fit_logistic(train, labels, found.c)
    close(auc(model.scores(test), np.asarray(data["labels_test"]) == 1), data, f"cv_{scoring}_test_auc")


_CV: dict[str, Check] = {"cv_fold_of_sample": _folds, "cv_n_folds": _folds}
for _scoring in SCORINGS:
    _check = partial(_cross_validation, scoring=_scoring)
    _CV |= {f"cv_{_scoring}_{what}": _check for what in ("scores", "chosen_C", "tied_best", "test_auc")}


PROBE = Family(
    checks={
        "newton_coef": lambda data: close([m.coef for m in _models(data)], data, "newton_coef", atol=EXACT),
        "newton_intercept": _newton_intercept,
        "newton_decision_test": lambda data: close(_decisions(data, 1), data, "newton_decision_test", atol=EXACT),
        "coef": _coef,
        "intercept": lambda data: _no_farther(
            [m.intercept for m in _models(data)], data, "intercept", "newton_intercept"
        ),
        "decision_test": lambda data: _no_farther(_decisions(data, 1), data, "decision_test", "newton_decision_test"),
        "decision_train": _decision_train,
        "auc_test": _auc,
        "accuracy_test": _accuracy,
        **_CV,
    },
    unchecked={
        **dict.fromkeys(
            ("features_train", "labels_train", "features_test", "labels_test", "l2_normalize_first", "Cs"), "input"
        ),
        "max_abs_coef_diff_sklearn_vs_newton": "the tolerance of coef",
        "newton_max_abs_gradient": "how good the reference is",
    },
    optional=frozenset(_CV),  # for N > 2 only
)


FAMILIES: dict[str, Family] = {
    "06_spark_loss": SPARK_LOSS,
    "06_spark_mask_counts": MASK_COUNTS,
    "07_collapse_metrics": COLLAPSE,
    "08_probe": PROBE,
}
