"""A Hydra application of one's own that composes our groups beside its own. Lines of ours: +t2e."""

from __future__ import annotations

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

import torchopt2edge as t2e  # +t2e


def tiny(width: int = 16) -> nn.Module:
    def block(inputs: int, outputs: int) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    body = [block(3, width), block(width, 2 * width), block(2 * width, 2 * width)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


@hydra.main(version_base="1.3", config_path="conf", config_name="app")
def main(config: DictConfig) -> None:
    made = instantiate(config, _convert_="all")  # builds data, stages, backends … from the yaml
    stages, data = made["stage"], made["data"]
    run = {"timing": made["timing"], "backends": list(made["backend"].values())}
    result = t2e.optimize(stages, data, ship=["net", "small"], out=config.out, **run)  # +t2e
    print(result.verdict.winner or "no winner", *result.verdict.reasons, sep="\n")


if __name__ == "__main__":
    main()
