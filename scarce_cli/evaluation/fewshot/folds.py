"""Folds of a support set: stratified, and whole patients."""

from __future__ import annotations

import numpy as np

from scarce_cli.evaluation.fewshot.films import Bools, Ints


def possible_folds(labels: Bools, groups: Ints | None, most: int) -> int:
    """The largest number of folds, up to ``most``, that leaves both classes in every one of them."""
    members = np.arange(len(labels)) if groups is None else groups
    return min(most, *(len(np.unique(members[labels == label])) for label in (True, False)))


def make_folds(labels: Bools, groups: Ints | None, folds: int) -> Ints:
    """(N,) fold of every film, both classes in every fold. Without groups, or where each is one film, the folds of
    `stratified_folds`; else those of `grouped_folds`.

    Args:
        folds: 2 to `possible_folds`.
    """
    if groups is None or len(np.unique(groups)) == len(groups):
        return stratified_folds(labels, folds)
    return grouped_folds(labels, groups, folds)


def stratified_folds(labels: Bools, folds: int) -> Ints:
    """(N,) fold of every film: the films of each class in the order given, in consecutive runs. Classes are
    dealt out one after the other, so that folds differ by one film at most. scikit-learn's ``StratifiedKFold``."""
    first = bool(labels[0])
    classes = [np.flatnonzero(labels == first), np.flatnonzero(labels != first)]
    dealt = np.repeat([0, 1], [len(members) for members in classes])
    fold = np.empty(len(labels), np.int64)
    for code, members in enumerate(classes):
        sizes = [int((dealt[k::folds] == code).sum()) for k in range(folds)]
        fold[members] = np.repeat(np.arange(folds), sizes)
    return fold


def grouped_folds(labels: Bools, groups: Ints, folds: int) -> Ints:
    """(N,) fold of every film, all films of a group in one.

    Groups are dealt out one by one, each to the fold with the fewest films of its class (then of all): first those
    with films of both classes, then the rest, large ones before small ones. So every fold gets both classes: a
    fold without films of a class is always served first.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    films = np.stack([np.bincount(numbers, ~labels), np.bincount(numbers, labels)]).astype(np.int64)  # class, group
    mixed, total = (films > 0).all(axis=0), films.sum(axis=0)
    held, of_group = np.zeros((2, folds), np.int64), np.empty(len(total), np.int64)
    for group in np.lexsort((-total, ~mixed)):
        label = int(films[1, group] > 0)
        fold = np.lexsort((held.sum(axis=0), held[label]))[0]
        held[:, fold] += films[:, group]
        of_group[group] = fold
    return of_group[numbers]
