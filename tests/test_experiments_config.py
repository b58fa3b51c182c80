"""The configuration of a run and what it says of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rvsm.errors import ConfigError
from rvsm.experiments.config import TrainConfig, dump_config, load_config, make_config
from rvsm.experiments.recipes import SPARSE_METHODS, grid, recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_a_dumped_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = make_config(
        {
            "data": "some/folder",
            "method": "transformed-l1",
            "network": {"channels": [4, 6, 8]},
            "rules": [{"pattern": "fc.weight", "lam": 1e-4}],
        }
    )
    path = write(tmp_path, dump_config(config))
    assert load_config(path) == config
    assert load_config(path, seed=3).seed == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('data = "d"\nepoch = 3', r'Unknown key "epoch" in .*config.toml; did you mean "epochs"\?'),
        ('data = "d"\n[splitting]\nbta = 1', r'"splitting.bta" .* did you mean "beta"\?'),
        ('data = "d"\n[[rules]]\nlamda = 1', r'"rules.lamda" .* did you mean "lam"\?'),
        ('data = "d"\nqqqq = 3', "valid keys: data, more, method"),
        ("epochs = 3", 'The key "data" is missing'),
        ('data = "d"\nepochs = 0', '"epochs" in .* cannot be 0'),
        ('data = "d"\nepochs = "many"', "\"epochs\" in .* cannot be 'many'"),
        ('data = "d"\nmethod = "l3"', "\"method\" in .* cannot be 'l3'"),
        ('data = "d"\nepochs = ', "is not valid TOML"),
        (
            'data = "d"\n[splitting]\nbeta = 0',
            "splitting.beta.* 0: .* greater than 0",
        ),
        (
            'data = "d"\nmethod = "dense"\n[splitting]\nbeta = -1',
            "splitting.beta.* cannot be -1",
        ),
        ('data = "d"\n[network]\nchannels = [0, 1, 1]', '"network.channels" in .* cannot be 0'),
        ('data = "d"\n[splitting]\nstart = 0.5\nend = 0.5', "must be larger"),
        ('data = "d"\nrules = []', "has no"),
        (
            'data = "d"\n[[rules]]\npattern = "fc.weight"\nlam = -1',
            "rules.lam.* cannot be -1",
        ),
        ('data = "d"\n[[rules]]\npattern = "fc.weight"\nlam = 1\nsparsity = 0.5', "exactly one"),
        ('data = "d"\n[[rules]]\npattern = "fc.weight"', "exactly one"),
        ('data = "d"\n[[rules]]\npattern = "fc.weight"\nsparsity = 1', "rules.sparsity"),
    ],
)
def test_one_sentence_names_the_key_and_the_remedy(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read the configuration .*none\.toml"):
        load_config(tmp_path / "none.toml")


def test_learning_from_answers_needs_somebody_who_answers() -> None:
    for half in ({"distill": 0.5}, {"teacher": "run"}):
        with pytest.raises(ConfigError, match="or neither"):
            make_config({"data": "d", **half})
    with pytest.raises(ConfigError, match="both soften"):
        make_config({"data": "d", "teacher": "t", "distill": 0.5, "label_smoothing": 0.1})


def test_a_dense_run_needs_no_rules() -> None:
    assert make_config({"data": "d", "method": "dense", "rules": []}).rules == ()


@pytest.mark.parametrize("full", [True, False])
def test_the_recipes_meet_the_paper_s_share_of_zeros(full: bool) -> None:
    for method in SPARSE_METHODS:
        config = recipe(method, full=full, data="d", seed=0, start="dense")
        assert config.method == method
        shares = [rule.sparsity for rule in config.rules if rule.pattern == "fc.weight"]
        assert all(share is None or share > 0.86 for share in shares)


@pytest.mark.parametrize("full", [True, False])
def test_the_points_of_the_grid_differ_in_one_rule_and_beta_only(full: bool) -> None:
    points = grid("d", "start", full=full)
    assert len(points) == 3 * 6 * 3
    first: dict[str, TrainConfig] = {}
    for name, config in points.items():
        assert f"beta{config.splitting.beta:g}" in name
        base = first.setdefault(config.method, config)
        changed = {
            "rules": (*config.rules[:-1], base.rules[-1]),
            "splitting": config.splitting.model_copy(update={"beta": base.splitting.beta}),
        }
        assert config.model_copy(update=changed) == base
