"""Published versions without weights."""

from __future__ import annotations

from pathlib import Path

from worker.store.registry import Registry

BASE = "stand-in-1"


def publish(registry: Registry, tmp_path: Path, adapter: str, base: str = BASE) -> str:
    folder = tmp_path / f"made-{adapter}"
    folder.mkdir(exist_ok=True)
    (folder / "adapter.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(adapter.encode())
    manifest = registry.publish(
        folder,
        {
            "adapter": adapter,
            "base": base,
            "parent": base,
            "project": "7",
            "snapshot": "s",
            "recipe": {},
            "metrics": {},
            "verdict": {"promote": True, "why": "better"},
        },
    )
    return manifest.name
