"""The versions that a worker can answer with: one base model in memory, and adapters loaded on demand."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

from pixellm_model.errors import CheckpointError
from worker.serving.model import Model
from worker.store.registry import Registry, RegistryError, split_name

log = logging.getLogger(__name__)


class Versions:
    """Models by version name. Safe for several threads.

    An adapter is loaded when the first job names it; the `max_loaded` used last stay in memory. So a newly
    promoted version needs no restart, and jobs that name the previous version are still answered by that.
    """

    def __init__(self, base: Model, registry: Registry, max_loaded: int) -> None:
        self._base = base
        self._registry = registry
        self._max_loaded = max_loaded
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._lock = threading.Lock()

    def model_for(self, version: str | None) -> tuple[Model, str | None]:
        """Find the model of a version.

        Args:
            version: A version's name; None or a version of another base stand for the base model.

        Returns:
            The model and None; or, when the version cannot be loaded, the base model and a sentence for the
            annotator.
        """
        base, adapter = split_name(version) if version else (self._base.version, None)
        if adapter is None or base != self._base.version:
            return self._base, None
        with self._lock:
            if adapter in self._loaded:
                self._loaded.move_to_end(adapter)
                return self._loaded[adapter], None
            try:
                model = self._base.with_adapter(self._registry.verified_folder(adapter), adapter)
            except (RegistryError, CheckpointError) as error:
                log.error("version %s cannot be loaded: %s", version, error)
                return self._base, f"The version {adapter} cannot be loaded; the base model answered."
            self._loaded[adapter] = model
            while len(self._loaded) > self._max_loaded:
                self._loaded.popitem(last=False)
            log.info("version %s is loaded", version)
            return model, None
