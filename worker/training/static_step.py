"""The training step as one object with fixed memory.

`StaticStep` owns everything that a step reads and writes: the network, its flat parameters, gradients and optimizer
state, the batches and learning rates of the next steps, and what these steps have computed. `body` runs one step on
these tensors alone and reads nothing from the host, so that on a GPU it is captured once as a CUDA graph and replayed.
The next training of the same kind copies its initial values into the same memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from worker.architecture import IMAGE_CHANNELS, IMAGE_SIZE, NUM_CLASSES
from worker.data.batches import Batch
from worker.distributed.process_group import SINGLE_WORKER, ProcessGroup
from worker.models import build_model
from worker.normalizations.layers import BatchNorm
from worker.numerics.precision import Precision, autocast
from worker.spec import TrainingSpec
from worker.training.cast_weights import CastWeights
from worker.training.evaluation import EvaluationStep
from worker.training.flat_tensors import FlatParameters
from worker.training.graphs import capture
from worker.training.optimization import FlatOptimizer
from worker.training.weight_average import AveragedWeights

MAX_SLOTS = 16
"""Steps that are prepared and read together at most. On a GPU each read makes the host wait."""
MAX_STAGED_IMAGES = 2048
"""Images of the prepared steps at most, unless a single batch has more."""

_NO_LABEL = -1


class StepResult(NamedTuple):
    """What a step computed: the mean loss of its batch, and how many images were classified wrongly."""

    images: int
    loss: float
    errors: int


class StaticStep:
    """One optimizer step of a training, repeated on the same memory.

    Args:
        spec: The training; others of its kind may use the object after `reset`.
        device: Device of all tensors.
        precision: Precision of the activations.

    Attributes:
        model: The network. Its parameters are views of one tensor.
        optimizer: The optimizer over that tensor.
        average: The average of the weights, if the training has one.
        evaluation: The evaluation of a batch by the network.
        group: The process group of the training; set it before the first step.
    """

    def __init__(self, spec: TrainingSpec, device: torch.device, precision: Precision) -> None:
        self.device, self.precision = device, precision
        self.batch_size = spec.batch_size
        self.model = build_model(spec.model, spec.normalization, seed=spec.seed).to(device).train()
        parameters = FlatParameters(self.model)
        self.parameters, self._values = parameters.parameters, parameters.values
        self.optimizer = FlatOptimizer(spec.optimizer, parameters)
        self._cast = CastWeights(self.model, parameters) if precision == "bfloat16" else None
        self._batch_counters = []
        for layer in self.model.modules():
            if isinstance(layer, BatchNorm) and layer.num_batches_tracked is not None:
                layer.counts_batches = False
                self._batch_counters.append(layer.num_batches_tracked)
        self._one = torch.ones((), device=device)
        self.average = AveragedWeights(spec.ema.decay, self.model, parameters) if spec.ema else None
        self._label_smoothing = spec.label_smoothing
        self.group: ProcessGroup = SINGLE_WORKER
        self.evaluation = EvaluationStep(self.model, device, precision)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.is_capturable = device.type == "cuda"
        self._graph_bytes = 0
        self.num_slots = max(1, min(MAX_SLOTS, MAX_STAGED_IMAGES // spec.batch_size))

        slots, batch = self.num_slots, self.batch_size
        # The channels come last, as in the batches of worker.data.
        self._images = torch.zeros(slots, batch, IMAGE_SIZE, IMAGE_SIZE, IMAGE_CHANNELS, device=device)
        self._labels = torch.zeros(slots, batch, dtype=torch.int64, device=device)
        self._rates = torch.zeros(slots, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        self._losses = torch.zeros(slots, device=device)
        self._logits = torch.zeros(slots, batch, NUM_CLASSES, device=device)
        self._slot = torch.zeros(1, dtype=torch.int64, device=device)
        self._image = torch.zeros_like(self._images[:1])
        self._label = torch.zeros_like(self._labels[:1])
        self._rate = torch.zeros_like(self._rates[:1])
        self._sizes: list[int] = []
        self._host_rates: list[float] = []
        self._done = self._read = 0

    def state(self) -> Iterator[Tensor]:
        """Yield the tensors that a step changes and that the following steps depend on."""
        yield from self.parameters
        yield from self.model.buffers()
        yield from self.optimizer.tensors()
        yield from self.average.tensors() if self.average else ()
        yield self._slot

    def memory(self) -> Iterator[Tensor]:
        """Yield the tensors of the object, except the buffers of the network."""
        yield from (self._values, self.optimizer.gradients, *self.optimizer.tensors())
        yield from self.average.tensors() if self.average else ()
        yield from (self._images, self._labels, self._rates, self._losses, self._logits)
        yield from (self._slot, self._image, self._label, self._rate)
        if self._cast is not None:
            yield self._cast.flat

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """Put the weights that are evaluated into the network; those that are trained return at the end."""
        return self.average.in_place() if self.average else nullcontext()

    @property
    def nbytes(self) -> int:
        """Memory of the tensors and of the graphs, in bytes."""
        tensors = sum(tensor.nbytes for tensor in (*self.memory(), *self.model.buffers()))
        return tensors + self._graph_bytes + self.evaluation.nbytes

    @torch.no_grad()
    def reset(self, spec: TrainingSpec) -> None:
        """Begin the training `spec`: copy its initial weights into the same memory."""
        fresh = build_model(spec.model, spec.normalization, seed=spec.seed)
        initial = (*fresh.parameters(), *fresh.buffers())
        for tensor, value in zip((*self.model.parameters(), *self.model.buffers()), initial, strict=True):
            tensor.copy_(value)
        self.model.train()
        self.optimizer.reset(spec.optimizer.learning_rate)
        if self.average:
            self.average.reset()
        self.fill([], [])

    def fill(self, batches: Sequence[Batch], rates: Sequence[float]) -> None:
        """Prepare the next steps.

        Args:
            batches: Images and labels of each step, `num_slots` at most; the last batch may be smaller.
            rates: Learning rate of each step.
        """
        for slot, (images, labels) in enumerate(batches):
            size = len(labels)
            self._images[slot, :size].copy_(images.permute(0, 2, 3, 1))
            if size < self.batch_size:
                self._labels[slot].fill_(_NO_LABEL)
            self._labels[slot, :size].copy_(labels)
        self._rates[: len(rates)].copy_(torch.tensor(rates, dtype=self._rates.dtype))
        self._slot.zero_()
        self._sizes = [len(labels) for _, labels in batches]
        self._host_rates = list(rates)
        self._done = self._read = 0

    def run(self) -> None:
        """Run the next of the prepared steps."""
        size = self._sizes[self._done]
        self.optimizer.learning_rate = self._host_rates[self._done]
        if self.graph is not None and size == self.batch_size:
            self.graph.replay()
            self.optimizer.has_state = True
        else:
            self.body(size)
        self._done += 1

    def capture(self) -> None:
        """Capture `body` as a CUDA graph, which the following steps replay; the state is as before.

        It is tried once. Afterwards steps run eagerly if it failed.

        Raises:
            RuntimeError: A step cannot be captured, or the device does not work any more.
        """
        self.is_capturable = False
        before = [tensor.detach().clone() for tensor in self.state()]
        has_state = self.optimizer.has_state
        allocated = torch.cuda.memory_reserved(self.device)

        def warm_up() -> None:
            # All slots may have been used.
            self._slot.zero_()
            self.body(self.batch_size)

        try:
            self.graph = capture(lambda: self.body(self.batch_size), warm_up, self.device)
        finally:
            self._graph_bytes = torch.cuda.memory_reserved(self.device) - allocated
            with torch.no_grad():
                for tensor, value in zip(self.state(), before, strict=True):
                    tensor.copy_(value)
            self.optimizer.has_state = has_state

    def body(self, size: int) -> None:
        """Run one step on the batch of `size` images in the current slot, and advance the slot."""
        torch.index_select(self._images, 0, self._slot, out=self._image)
        torch.index_select(self._labels, 0, self._slot, out=self._label)
        torch.index_select(self._rates, 0, self._slot, out=self._rate)
        images, labels = self._image[0, :size].permute(0, 3, 1, 2), self._label[0, :size]

        # The gradients of a group are reduced by hooks on the parameters.
        cast = self._cast if self.group is SINGLE_WORKER else None
        with autocast(self.precision, self.device):
            if cast is not None:
                cast.refresh()
                logits = functional_call(self.model, cast.weights, (images,))
            else:
                logits = self.model(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self._label_smoothing)
        gradients = torch.autograd.grad(loss, cast.leaves if cast else self.parameters, self._one)
        self.optimizer.take_gradients(self.group.average(gradients))
        self.optimizer.step(self._rate[0])
        if self.average:
            self.average.update()
        if self._batch_counters:
            torch._foreach_add_(self._batch_counters, 1)

        self._losses.index_copy_(0, self._slot, loss.detach().view(1))
        self._logits[:, :size].index_copy_(0, self._slot, logits.detach().unsqueeze(0))
        self._slot.add_(1)

    def results(self) -> list[StepResult]:
        """Return the results of the steps since the last call, read from the device in one copy."""
        steps = slice(self._read, self._done)
        self._read = self._done
        sizes = self._sizes[steps]
        if not sizes:
            return []
        labels = self._labels[steps]
        wrong = ((self._logits[steps].argmax(2) != labels) & (labels != _NO_LABEL)).sum(1)
        losses, errors = torch.stack([self._losses[steps].double(), wrong.double()]).tolist()
        return [StepResult(size, loss, int(count)) for size, loss, count in zip(sizes, losses, errors, strict=True)]
