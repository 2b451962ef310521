"""docker-compose.yml as Compose itself reads it, and that the images are built from what is there.

No engine is needed: `config` parses, checks the schema, fills in variables and prints the result.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.settings import BackendSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
GIVEN = {
    "LABEL_STUDIO_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "LABEL_STUDIO_PASSWORD": "secret",
}


def compose_command() -> list[str]:
    """The plugin of `docker`, or the program of its own that came before it."""
    plugin = ["docker", "compose"]
    if shutil.which("docker") and not subprocess.run([*plugin, "version"], capture_output=True).returncode:
        return plugin
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    missing = "Compose is missing; install docker-compose (Debian: apt-get install docker-compose)"
    if os.environ.get("REQUIRE_TOOLS"):
        pytest.fail(missing)
    pytest.skip(missing)


def run_config(profile: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*compose_command(), "config"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "COMPOSE_PROFILES": profile, **variables},
        capture_output=True,
        text=True,
    )


def config(profile: str) -> dict[str, Any]:
    done = run_config(profile, **GIVEN)
    assert not done.returncode, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.mark.parametrize(("profile", "worker"), [("gpu", "worker"), ("cpu", "worker-cpu")])
def test_a_profile_has_every_part_with_health_check_and_restart(profile: str, worker: str) -> None:
    services = config(profile)["services"]
    assert services[worker]["profiles"] == [profile]
    for name in ("label-studio", "redis", "backend", worker):
        service = services[name]
        assert service.get("profiles", [profile]) == [profile]
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"


def test_only_the_gpu_profile_reserves_a_gpu() -> None:
    (device,) = config("gpu")["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
    on_cpu = config("cpu")["services"]["worker-cpu"]
    assert "deploy" not in on_cpu and on_cpu["environment"]["DEVICE"] == "cpu"


def test_the_processes_understand_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    services = config("gpu")["services"]
    fields = {name.upper() for name in BackendSettings.model_fields | WorkerSettings.model_fields}
    for name in ("backend", "worker"):
        environment = services[name]["environment"]
        assert set(environment) <= fields
        with monkeypatch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            settings = BackendSettings() if name == "backend" else WorkerSettings()
        assert settings.redis_url == "redis://redis:6379/0"
        assert settings.label_studio_url == "http://label-studio:8080"
        assert (
            settings.label_studio_api_key
            == services["label-studio"]["environment"]["LABEL_STUDIO_USER_TOKEN"]
        )
        if isinstance(settings, WorkerSettings):
            assert settings.model_dir is None, "an empty MODEL_DIR means the shipped model"


def test_secrets_have_no_default() -> None:
    for missing in GIVEN:
        done = run_config("cpu", **{name: value for name, value in GIVEN.items() if name != missing})
        assert done.returncode and "set it in .env" in done.stderr


@pytest.mark.parametrize("dockerfile", ["backend", "worker"])
def test_an_image_is_built_from_what_is_there_as_a_user_without_rights(dockerfile: str) -> None:
    text = (ROOT / "docker" / f"{dockerfile}.Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.M) for name in line.split()]
    context = context_of(dockerfile)
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}" in context
    assert "USER pixellm" in text


def context_of(dockerfile: str) -> list[str]:
    """The lines of the ignore file that Docker takes for a Dockerfile: its own before the common one."""
    own = ROOT / "docker" / f"{dockerfile}.Dockerfile.dockerignore"
    return (own if own.exists() else ROOT / ".dockerignore").read_text().splitlines()


def test_the_backend_s_image_has_the_decoder_and_no_weights() -> None:
    assert "COPY pixellm_model pixellm_model" in (ROOT / "docker" / "backend.Dockerfile").read_text()
    context = context_of("backend")
    assert (ROOT / "pixellm_model" / "mini").is_dir(), "where the weights are"
    assert context.index("pixellm_model/mini") > context.index("!pixellm_model"), "the last match counts"
    assert "pixellm_model/mini" not in context_of("worker")


def test_an_image_has_every_package_that_its_program_imports() -> None:
    for dockerfile, programs in (("backend", {"backend"}), ("worker", {"worker"})):
        text = (ROOT / "docker" / f"{dockerfile}.Dockerfile").read_text()
        wanted, found = programs, set[str]()
        while wanted:
            found |= wanted
            sources = [path.read_text() for name in wanted for path in (ROOT / name).rglob("*.py")]
            imports = {
                name for source in sources for name in re.findall(r"^\s*(?:from|import) (\w+)", source, re.M)
            }
            wanted = (imports & {"backend", "label_config", "pixellm_model", "worker"}) - found
        for name in found:
            assert f"COPY {name} {name}\n" in text
