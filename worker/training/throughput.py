"""The throughput of a training."""


class Throughput:
    """Training images per second, without the time of evaluations and checkpoints."""

    def __init__(self) -> None:
        self.images, self.seconds = 0, 0.0

    def add(self, images: int, seconds: float) -> None:
        """Count `images` trained on in `seconds`."""
        self.images += images
        self.seconds += seconds

    def read_and_reset(self) -> float:
        """Return the images per second since the last call."""
        speed = self.images / max(self.seconds, 1e-9)
        self.images, self.seconds = 0, 0.0
        return speed
