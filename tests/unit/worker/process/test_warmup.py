"""The warm-up takes the steps that a training with the default settings takes on the device."""

from typing import Any

import pytest

from worker.process import warmup
from worker.process.warmup import warm_up
from worker.training.static_step import StaticStep


@pytest.mark.parametrize("auto", ["float32", "bfloat16"])
def test_it_takes_a_step_of_batch_and_of_group_normalization_in_the_precision_of_a_job(
    monkeypatch: pytest.MonkeyPatch, auto: str
) -> None:
    taken: list[tuple[str, str]] = []

    class Step(StaticStep):
        def __init__(self, spec: Any, device: Any, precision: Any) -> None:
            super().__init__(spec, device, precision)
            self.kind = spec.normalization.type

        def run(self) -> None:
            super().run()
            taken.append((self.kind, self.precision))

    monkeypatch.setattr(warmup, "StaticStep", Step)
    monkeypatch.setattr(warmup, "choose_precision", lambda spec, device: auto)
    warm_up("cpu")

    assert taken == [("batch", auto), ("group", auto)]
