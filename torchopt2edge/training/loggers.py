"""Where the figures of a training go besides the log: CSV, TensorBoard, MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torchopt2edge.errors import ConfigError
from torchopt2edge.training.recipe import Recipe

_NEEDS = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny sqlalchemy"}


class Logbook(Protocol):
    """The part of Lightning's loggers that is used."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Note some figures."""

    def save(self) -> None:
        """Write what was noted."""

    def finalize(self, status: str) -> None:
        """Close it."""


def open_logbook(recipe: Recipe, name: str) -> Logbook | None:
    """Return Lightning's logger of the recipe, which writes into ``log_dir``; None for ``none``.

    Raises:
        ConfigError: its package is not installed; it says which.
    """
    folder = Path(recipe.log_dir)
    if recipe.logger != "none":
        folder.mkdir(parents=True, exist_ok=True)
    made: Any
    try:
        made = _made(recipe.logger, folder, name)
    except (ModuleNotFoundError, ImportError) as error:
        raise ConfigError(
            f"the logger {recipe.logger} needs a package that is not installed",
            hint=f"pip install {_NEEDS[recipe.logger]}, or logger=csv",
        ) from error
    if made is not None:
        made.log_hyperparams({"lr": recipe.lr, "epochs": recipe.epochs, "seed": recipe.seed})
    book: Logbook | None = made
    return book


def _made(kind: str, folder: Path, name: str) -> Any:
    if kind == "none":
        return None
    from lightning.pytorch import loggers

    if kind == "csv":
        return loggers.CSVLogger(folder, name)
    if kind == "tensorboard":
        return loggers.TensorBoardLogger(folder, name)
    return loggers.MLFlowLogger(name, tracking_uri=f"sqlite:///{folder.resolve()}/mlflow.db")
