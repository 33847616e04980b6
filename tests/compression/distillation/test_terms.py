"""Each term against its paper's formula, computed by hand in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchopt2edge.compression.distillation.terms import (
    DIST,
    DKD,
    KD,
    Attention,
    Hint,
    Output,
    OutputTerm,
    Relational,
    terms_of,
)
from torchopt2edge.errors import ConfigError

RNG = np.random.default_rng(0)
S, T = RNG.normal(size=(2, 6, 5))
LABELS = np.array([0, 1, 2, 3, 4, 0])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def value(term: object, *arrays: np.ndarray) -> float:
    given = [None if a is None else torch.tensor(a) for a in arrays]
    return float(term(*given))  # type: ignore[operator]


def test_kd() -> None:
    p, q = softmax(T / 3), softmax(S / 3)
    by_hand = 9 * (p * np.log(p / q)).sum(1).mean()
    assert value(KD(temperature=3.0), S, T, LABELS) == pytest.approx(by_hand)


def test_dkd() -> None:
    p, q = softmax(T / 2), softmax(S / 2)
    rows = np.arange(6)
    bt, bs = (np.stack([x[rows, LABELS], 1 - x[rows, LABELS]], 1) for x in (p, q))
    tckd = (bt * np.log(bt / bs)).sum(1).mean()
    keep = np.ones((6, 5), bool)
    keep[rows, LABELS] = False
    pn, qn = (softmax(x[keep].reshape(6, 4) / 2) for x in (T, S))
    nckd = (pn * np.log(pn / qn)).sum(1).mean()
    got = value(DKD(temperature=2.0, target=1.5, others=4.0), S, T, LABELS)
    assert got == pytest.approx(4 * (1.5 * tckd + 4.0 * nckd), rel=1e-5)
    with pytest.raises(ConfigError, match="loss=kd or loss=dist"):
        DKD()(torch.tensor(S), torch.tensor(T), None)


def test_dist() -> None:
    p, q = softmax(T), softmax(S)
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    got = value(DIST(inter=2.0, intra=0.5), S, T, LABELS)
    assert got == pytest.approx(2.0 * inter + 0.5 * intra, rel=1e-4)


def test_output() -> None:
    assert value(Output(), S, T, None) == pytest.approx(np.abs(S - T).mean())
    with pytest.raises(ConfigError, match="same task"):
        Output()(torch.zeros(2, 3), torch.zeros(2, 4), None)


def test_hint_and_its_sizes() -> None:
    a, b = RNG.normal(size=(2, 3, 4, 8, 8))
    term = Hint(student="x", teacher="y")
    assert value(term, a, b) == pytest.approx(np.square(a - b).mean() / b.var(ddof=1))
    small = a.reshape(3, 4, 4, 2, 4, 2).mean((3, 5))
    assert value(term, a, b[:, :, :4, :4]) == pytest.approx(
        np.square(small - b[:, :, :4, :4]).mean() / b[:, :, :4, :4].var(ddof=1)
    )


def test_attention() -> None:
    a, b = RNG.normal(size=(3, 4, 5, 5)), RNG.normal(size=(3, 7, 5, 5))
    maps = [np.square(x).mean(1).reshape(3, -1) for x in (a, b)]
    maps = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
    by_hand = np.square(maps[0] - maps[1]).sum(1).mean()
    assert value(Attention(student="x", teacher="y"), a, b) == pytest.approx(by_hand)


def test_relations() -> None:
    a, b = RNG.normal(size=(4, 6)), RNG.normal(size=(4, 9))

    def huber(x: np.ndarray) -> float:
        return float(np.where(np.abs(x) < 1, 0.5 * x * x, np.abs(x) - 0.5).mean())

    def distances(x: np.ndarray) -> np.ndarray:
        d = np.linalg.norm(x[:, None] - x[None], axis=2)
        return d / d[d > 0].mean()

    def angles(x: np.ndarray) -> np.ndarray:
        e = x[None] - x[:, None]
        n = np.linalg.norm(e, axis=2, keepdims=True)
        e = np.divide(e, n, out=np.zeros_like(e), where=n > 0)
        return np.einsum("ijd,ikd->ijk", e, e)

    by_hand = huber(distances(a) - distances(b)) + 2 * huber(angles(a) - angles(b))
    got = value(Relational(student="x", teacher="y"), a, b)
    assert got == pytest.approx(by_hand, rel=1e-4)


def test_weights_fade() -> None:
    term = KD(weight=2.0, fade=0.5, fade_steps=10)
    assert [term.weight_at(s) for s in (0, 5, 10, 99)] == [2.0, 1.5, 1.0, 1.0]


def test_names() -> None:
    kd, dist = terms_of(["kd", DIST()], 7.0)
    assert kd == KD(temperature=7.0)
    assert dist == DIST()
    with pytest.raises(ConfigError, match="dkd, dist"):
        terms_of("crd", 4.0)
    with pytest.raises(ConfigError, match=r"Hint\(student='layer3'"):
        terms_of("hint", 4.0)


@pytest.mark.parametrize("term", [KD(), DKD(), DIST()], ids=lambda t: type(t).__name__)
def test_scores_of_every_position_count_as_those_of_a_sample(term: OutputTerm) -> None:
    """A map of classes [N, C, H, W] says what its pixels say as N·H·W samples."""
    torch.manual_seed(0)
    mine, theirs, labels = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4), torch.arange(24) % 5
    flat = [one.permute(0, 2, 3, 1).reshape(24, 5) for one in (mine, theirs)]
    torch.testing.assert_close(
        term(mine, theirs, labels.view(2, 3, 4)), term(flat[0], flat[1], labels)
    )
