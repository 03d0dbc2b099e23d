"""What the set-up scripts decide: where the environment stands, when it is made anew, how reports read."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


def load(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def setup_env(tmp_path, monkeypatch):
    """The set-up script, looking at a repository in a temporary folder."""
    module = load("setup_env")
    root = tmp_path / "repository"
    (root / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup_env.py"):
        (root / name).write_text(name)
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "VENV", root / ".venv")
    return module


def test_environment_stands_in_the_repository(setup_env):
    assert setup_env.environment_folder() == setup_env.ROOT / ".venv"


@pytest.mark.parametrize("name", ["my models", "tom's", "a$b", "größe"])
def test_environment_leaves_a_path_that_needs_quoting(setup_env, monkeypatch, tmp_path, name):
    monkeypatch.setattr(setup_env, "ROOT", tmp_path / name)
    monkeypatch.setattr(setup_env, "VENV", tmp_path / name / ".venv")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    home = setup_env.environment_folder()
    assert home.is_relative_to(tmp_path / "cache")
    monkeypatch.setattr(setup_env, "ROOT", tmp_path / f"{name} 2")
    assert setup_env.environment_folder() != home, "two checkouts must not share an environment"


def test_environment_with_nowhere_to_go_is_a_sentence(setup_env, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, "VENV", tmp_path / "my models" / ".venv")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "my cache"))
    with pytest.raises(setup_env.SetupError, match="set XDG_CACHE_HOME to a plain path"):
        setup_env.environment_folder()


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "scripts/setup_env.py"])
def test_fingerprint_follows_the_files_that_matter(setup_env, name):
    home = setup_env.environment_folder()
    before = setup_env.fingerprint(home)
    assert setup_env.fingerprint(home) == before
    (setup_env.ROOT / name).write_text("changed")
    assert setup_env.fingerprint(home) != before


def test_an_environment_made_elsewhere_is_not_usable(setup_env, tmp_path):
    setup_env.create_venv(tmp_path / "here")
    assert setup_env.is_usable(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert not setup_env.is_usable(tmp_path / "there")
    assert not setup_env.is_usable(tmp_path / "nowhere")


def test_another_python_is_refused_with_a_sentence(setup_env, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    monkeypatch.setattr(sys, "version", "3.10.13 (main)")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(setup_env.SetupError, match=r"found Python 3\.10\.13 at .*, expected 3\.11 or 3\.12"):
        setup_env.use_supported_python()


def test_type_errors_name_the_files_of_the_repository():
    folders = {"glyphrl": "glyphrl", "glyphrl.rewards": "rewards"}
    report = (
        "glyphrl/rewards/ned.py:3: error: x\nglyphrl/config.py:9: note: glyphrl/rewards/y\nFound 1 error\n"
    )
    expected = "rewards/ned.py:3: error: x\nglyphrl/config.py:9: note: glyphrl/rewards/y\nFound 1 error\n"
    assert load("typecheck").real_paths(report, folders) == expected
