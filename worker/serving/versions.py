"""The versions a worker answers with: one base in memory, and the adapters that jobs name."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

from pixellm_model.errors import CheckpointError
from worker.serving.model import Model
from worker.store.registry import Registry, RegistryError, split_name

log = logging.getLogger(__name__)


class Versions:
    """Models by version name; adapters are loaded when a job names them, the last `most` are kept.

    A version that is promoted answers from the first job that names it; jobs that name the one before are
    still answered by that.
    """

    def __init__(self, base: Model, registry: Registry, most: int) -> None:
        self._base = base
        self._registry = registry
        self._most = most
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def base(self) -> Model:
        return self._base

    def of(self, version: str | None) -> tuple[Model, str | None]:
        """The model of a version and None; or the base and a sentence why it stands in for another one."""
        base, adapter = split_name(version) if version else (self._base.version, None)
        if adapter is None or base != self._base.version:
            return self._base, None
        with self._lock:
            if adapter in self._loaded:
                self._loaded.move_to_end(adapter)
                return self._loaded[adapter], None
            try:
                model = self._base.with_adapter(self._registry.folder(adapter), adapter)
            except (RegistryError, CheckpointError) as error:
                log.error("version %s cannot be loaded: %s", version, error)
                return self._base, f"The version {adapter} cannot be loaded; the base model answered."
            self._loaded[adapter] = model
            while len(self._loaded) > self._most:
                self._loaded.popitem(last=False)
            log.info("version %s is loaded", version)
            return model, None
