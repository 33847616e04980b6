"""What a student can be asked to copy: each a frozen value that knows its own loss.

A term looks at outputs (`OutputTerm`) or at features inside both nets (`FeatureTerm`). What it
returns is a mean over the batch. ``weight`` scales it; ``fade`` changes it over the training, from
all of it at the first step to that share at ``fade_steps``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from torchopt2edge.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Term:
    """One thing to copy."""

    weight: float = 1.0
    fade: float = 1.0
    fade_steps: int = 0

    def weight_at(self, step: int) -> float:
        """Return the weight after ``step`` steps."""
        if not self.fade_steps:
            return self.weight
        done = min(1.0, step / self.fade_steps)
        return self.weight * (1 + (self.fade - 1) * done)


@dataclass(frozen=True, kw_only=True)
class OutputTerm(Term):
    """A term over the outputs [N, …]: the teacher's may come from a cache."""

    def __call__(self, student: Tensor, teacher: Tensor, targets: Tensor | None) -> Tensor:
        """Return the loss of a batch."""
        raise ConfigError("a term of outputs has no loss of its own", hint="KD, DKD, DIST, Output")


@dataclass(frozen=True, kw_only=True)
class KD(OutputTerm):
    """Soft targets: T² · KL(teacher ∥ student) of the softened classes.

    Source: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network".
    """

    temperature: float = 4.0

    def __call__(self, student: Tensor, teacher: Tensor, targets: Tensor | None) -> Tensor:
        """Logits [N, classes, …] of both → scalar, the mean over samples and positions."""
        wanted = F.log_softmax(_rows(teacher) / self.temperature, dim=1)
        own = F.log_softmax(_rows(student) / self.temperature, dim=1)
        soft = F.kl_div(own, wanted, reduction="batchmean", log_target=True)
        return self.temperature**2 * soft


@dataclass(frozen=True, kw_only=True)
class DKD(OutputTerm):
    """Decoupled soft targets: the share of the labelled class, and the others among themselves.

    ``target`` and ``others`` weigh the two (α and β of the paper). Needs labels.
    Source: Zhao et al. 2022, "Decoupled Knowledge Distillation", eq. 7.
    """

    temperature: float = 4.0
    target: float = 1.0
    others: float = 8.0

    def __call__(self, student: Tensor, teacher: Tensor, targets: Tensor | None) -> Tensor:
        """Logits [N, classes, …] of both and labels [N, …] → scalar."""
        if targets is None or targets.shape != (len(student), *student.shape[2:]):
            raise ConfigError("dkd needs a class for every sample", hint="loss=kd or loss=dist")
        student, teacher = _rows(student), _rows(teacher)
        hit = F.one_hot(targets.flatten(), student.shape[1]).bool()
        s, t = student / self.temperature, teacher / self.temperature
        tckd = _kl(_binary(s, hit), _binary(t, hit))
        low = torch.finfo(s.dtype).min
        nckd = _kl(s.masked_fill(hit, low).log_softmax(1), t.masked_fill(hit, low).log_softmax(1))
        return self.temperature**2 * (self.target * tckd + self.others * nckd)


def _rows(logits: Tensor) -> Tensor:
    """Return one row of classes for each sample, or for each position of each sample."""
    return logits.movedim(1, -1).reshape(-1, logits.shape[1])


def _binary(logits: Tensor, hit: Tensor) -> Tensor:
    """Log-probabilities [N, 2]: the labelled class, and any other."""
    logs = logits.log_softmax(1)
    inside = logs[hit]
    outside = logs.masked_fill(hit, -torch.inf).logsumexp(1)
    return torch.stack([inside, outside], 1)


def _kl(own: Tensor, wanted: Tensor) -> Tensor:
    return (wanted.exp() * (wanted - own)).nan_to_num(0.0).sum(1).mean()


@dataclass(frozen=True, kw_only=True)
class DIST(OutputTerm):
    """Agree on the order, not on the numbers: correlation within samples and within classes.

    ``inter`` and ``intra`` weigh the two (β and γ of the paper).
    Source: Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", eq. 8 to 10.
    """

    temperature: float = 1.0
    inter: float = 1.0
    intra: float = 1.0

    def __call__(self, student: Tensor, teacher: Tensor, targets: Tensor | None) -> Tensor:
        """Logits [N, classes, …] of both → scalar."""
        s = (_rows(student) / self.temperature).softmax(1)
        t = (_rows(teacher) / self.temperature).softmax(1)
        loss = self.inter * _unlike(s, t) + self.intra * _unlike(s.T, t.T)
        return self.temperature**2 * loss


def _unlike(a: Tensor, b: Tensor) -> Tensor:
    """One less Pearson's correlation, the mean over the rows."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return 1 - F.cosine_similarity(a, b, dim=1, eps=1e-8).mean()


@dataclass(frozen=True, kw_only=True)
class Output(OutputTerm):
    """Give the teacher's very outputs, for tasks without classes: mean absolute difference."""

    def __call__(self, student: Tensor, teacher: Tensor, targets: Tensor | None) -> Tensor:
        """Outputs [N, …] of both → scalar."""
        if student.shape != teacher.shape:
            raise ConfigError(
                f"outputs of {tuple(student.shape)} cannot copy those of {tuple(teacher.shape)}",
                hint="a teacher of the same task",
            )
        return F.l1_loss(student, teacher)


@dataclass(frozen=True, kw_only=True)
class FeatureTerm(Term):
    """A term over what the modules called ``student`` and ``teacher`` output, in their nets."""

    student: str
    teacher: str
    adapts = False

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of a batch."""
        raise ConfigError("a term of features has no loss of its own", hint="Hint, Attention …")


@dataclass(frozen=True, kw_only=True)
class Hint(FeatureTerm):
    """Have the teacher's features, through a learned 1×1 adapter where the channels differ.

    The mean squared difference over the teacher's variance. Where the sizes of the maps differ
    the larger is averaged down. Source: Romero et al. 2015, "FitNets".
    """

    adapts = True

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features [N, C, …] of both, already of one width → scalar."""
        student, teacher = _one_size(student, teacher)
        return F.mse_loss(student, teacher) / teacher.var().clamp_min(1e-8)


@dataclass(frozen=True, kw_only=True)
class Attention(FeatureTerm):
    """Look where the teacher looks: normalised maps of the summed squares over channels.

    Source: Zagoruyko & Komodakis 2017, "Paying More Attention to Attention", eq. 2.
    """

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features [N, C, H, W] of both, any widths → scalar."""
        student, teacher = _one_size(student, teacher)
        return (_attention(student) - _attention(teacher)).square().sum(1).mean()


def _attention(features: Tensor) -> Tensor:
    return F.normalize(features.square().mean(1).flatten(1))


@dataclass(frozen=True, kw_only=True)
class Relational(FeatureTerm):
    """Keep the distances and the angles between the samples of a batch.

    ``distance`` and ``angle`` weigh the two. Source: Park et al. 2019, "Relational Knowledge
    Distillation", eq. 5 to 9.
    """

    distance: float = 1.0
    angle: float = 2.0

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features [N, …] of both, any widths → scalar."""
        s, t = student.flatten(1), teacher.flatten(1)
        loss = self.distance * F.smooth_l1_loss(_distances(s), _distances(t))
        return loss + self.angle * F.smooth_l1_loss(_angles(s), _angles(t))


def _distances(x: Tensor) -> Tensor:
    """Pairwise distances over their mean, [N, N]."""
    gaps = torch.cdist(x, x)
    return gaps / gaps[gaps > 0].mean().clamp_min(1e-8)


def _angles(x: Tensor) -> Tensor:
    """The cosine at each sample of the corner that two others make with it, [N, N, N]."""
    edges = F.normalize(x[None] - x[:, None], dim=2)
    return torch.bmm(edges, edges.transpose(1, 2))


def _one_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average the larger of two stacks of maps down to the other's size."""
    if a.ndim != 4 or b.ndim != 4 or a.shape[2:] == b.shape[2:]:
        return a, b
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)


NAMED: dict[str, type[OutputTerm]] = {"kd": KD, "dkd": DKD, "dist": DIST, "output": Output}
FEATURES = ("hint", "attention", "relational")


def terms_of(loss: object, temperature: float) -> list[Term]:
    """Return the terms that a name, a term or several of them mean.

    Raises:
        ConfigError: there is none of that name, or it needs to know its modules.
    """
    items = loss if isinstance(loss, list | tuple) else [loss]
    return [_term(item, temperature) for item in items]


def _term(item: object, temperature: float) -> Term:
    if isinstance(item, Term):
        return item
    if item in FEATURES:
        raise ConfigError(
            f"the loss {item} looks at modules inside both nets, and none is named",
            hint=f"a term: {str(item).title()}(student='layer3', teacher='layer3')",
        )
    if not isinstance(item, str) or item not in NAMED:
        known = ", ".join((*NAMED, *FEATURES))
        raise ConfigError(f"there is no distillation loss {item!r}", hint=f"one of {known}")
    cls = NAMED[item]
    return cls(temperature=temperature) if cls in (KD, DKD) else cls()
