"""The datasets: each is loaded once, when the first job needs it, and all workers read it from Ray's object store."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.dispatcher.cluster import Cluster
from worker.spec import DatasetName


class Datasets:
    """The datasets that are loaded or being loaded. After a failure the next job that needs the dataset tries again."""

    def __init__(self, cluster: Cluster, data_dir: Path) -> None:
        self._cluster = cluster
        self._data_dir = data_dir
        self._loading: dict[DatasetName, asyncio.Task[Any]] = {}
        self._listeners: dict[DatasetName, list[Callable[[str], None]]] = {}

    async def get(self, name: DatasetName, progress: Callable[[str], None]) -> Any:
        """Load a dataset, unless it is loaded.

        Args:
            name: The dataset.
            progress: Called with a sentence when a download begins and ends.

        Returns:
            A reference for `Worker.start`.

        Raises:
            DatasetError: If it cannot be loaded.
        """
        task = self._loading.get(name)
        if task is None or (task.done() and task.exception() is not None):
            task = self._loading[name] = asyncio.create_task(self._load(name))
        listeners = self._listeners.setdefault(name, [])
        listeners.append(progress)
        try:
            return await asyncio.shield(task)
        finally:
            listeners.remove(progress)

    async def _load(self, name: DatasetName) -> Any:
        loop = asyncio.get_running_loop()

        def notify(message: str) -> None:
            for listener in tuple(self._listeners.get(name, ())):
                loop.call_soon_threadsafe(listener, message)

        return await self._cluster.load_dataset(name, self._data_dir, notify)
