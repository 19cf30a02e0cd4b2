"""Settings from TOML, `--set` and Python: what is right comes through, all that is wrong is told at once."""

from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from distsgd import config
from distsgd.config import Adam, Config, InputError, Sgd, to_toml


def problems(*changes: str) -> list[str]:
    return config.read(None, changes)[1]


def toml(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults() -> None:
    settings, wrong = config.read(None)
    assert (settings, wrong) == (Config(), [])
    assert (settings.data.path, settings.optimizer) == ("fashion-mnist-small", Adam())
    assert (settings.averaging.workers, settings.averaging.what) == (None, "parameters")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "launch" / "recipes").glob("*.toml")), ids=lambda path: path.stem
)
def test_every_recipe_is_a_config_and_says_how_to_run_it(path: Path) -> None:
    assert config.read(path)[1] == []
    assert f"distsgd train launch/recipes/{path.name} --ranks 2" in path.read_text(encoding="utf-8")


def test_toml_and_changes_which_win(tmp_path: Path) -> None:
    path = toml(tmp_path, '[train]\nepochs = 3\nseed = 4\n[optimizer]\nname = "sgd"\nlearning_rate = 0.5\n')
    settings, wrong = config.read(
        path, ["train.epochs=7", "optimizer.momentum=0.25", "averaging.period=epoch"]
    )
    assert wrong == []
    assert (settings.train.epochs, settings.train.seed) == (7, 4)
    assert settings.optimizer == Sgd(learning_rate=0.5, momentum=0.25)
    assert settings.averaging.rounds_of == "epoch"


@pytest.mark.parametrize(
    ("change", "section", "key", "value"),
    [
        ("optimizer.name=sgd", "optimizer", "name", "sgd"),
        ("network.name = rendon", "network", "name", "rendon"),
        ('data.path="some file.h5"', "data", "path", "some file.h5"),
        ("data.path=some/file.h5", "data", "path", "some/file.h5"),
        ("data.path=a=b", "data", "path", "a=b"),
        ("averaging.period=once", "averaging", "period", "once"),
        ("averaging.period=5", "averaging", "period", 5),
        ("optimizer.learning_rate=1e-4", "optimizer", "learning_rate", 1e-4),
        ("train.seed=9223372036854775807", "train", "seed", 2**63 - 1),
        ("averaging.what=gradients", "averaging", "what", "gradients"),
        ("network.dropout=0", "network", "dropout", 0.0),
    ],
)
def test_changes(change: str, section: str, key: str, value: Any) -> None:
    settings, wrong = config.read(None, [change])
    assert wrong == []
    assert getattr(getattr(settings, section), key) == value


@pytest.mark.parametrize(
    ("what", "period", "steps"),
    [
        ("gradients", None, 1),
        ("parameters", 5, 5),
        ("gradients", 1, 1),
        ("parameters", "once", "once"),
    ],
)
def test_period(what: str, period: Any, steps: int | str) -> None:
    settings = Config.model_validate({"averaging": {"what": what, "period": period}})
    assert settings.averaging.rounds_of == steps
    assert settings.problems() == []


@pytest.mark.parametrize("period", ["2", "epoch", "once"])
def test_gradients_are_averaged_at_every_step(period: str) -> None:
    (said,) = problems("averaging.what=gradients", f"averaging.period={period}")
    assert said.startswith("averaging.period = ")
    assert said.endswith("gradients are averaged at every step, so it must be 1")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            "nosuch.key=1",
            ["nosuch", "there is no such setting", "data, augment, network, optimizer, averaging, train"],
        ),
        ("train.nosuch=1", ["train.nosuch", "there is no such setting", "epochs, batch, seed"]),
        (
            "optimizer.momentum=0.5",
            ["optimizer.momentum", "no such setting", "name, learning_rate, ", "clip, beta1, beta2"],
        ),
        ("train.epochs=0", ["train.epochs = 0", "greater than or equal to 1"]),
        ("train.epochs=many", ["train.epochs = 'many'", "valid integer"]),
        ("train.epochs=1.5", ["train.epochs = 1.5", "valid integer"]),
        ("train.batch=65537", ["train.batch = 65537", "less than or equal to 65536"]),
        ("train.seed=-1", ["train.seed = -1", "greater than or equal to 0"]),
        ("train.seed=9223372036854775808", ["train.seed = 9223372036854775808"]),
        ("network.dropout=1", ["network.dropout = 1", "less than 1"]),
        ("network.name=[]", ["network.name = []", "valid string"]),
        ("optimizer.name=lbfgs", ["optimizer.name = 'lbfgs'", "'sgd' or 'adam'"]),
        ("optimizer.name=5", ["optimizer.name = 5", "'sgd' or 'adam'"]),
        ("optimizer.learning_rate=0", ["optimizer.learning_rate = 0", "greater than 0"]),
        ("optimizer.learning_rate=nan", ["optimizer.learning_rate = nan", "finite"]),
        ("optimizer.learning_rate=inf", ["optimizer.learning_rate = inf", "finite"]),
        ("optimizer.learning_rate=fast", ["optimizer.learning_rate = 'fast'", "valid number"]),
        ("optimizer.schedule=linear", ["optimizer.schedule = 'linear'", "'constant', 'step' or 'cosine'"]),
        ("optimizer.scale=2", ["optimizer.scale = 2", "'none', 'linear' or 'sqrt'"]),
        ("optimizer.clip=0", ["optimizer.clip = 0", "greater than 0"]),
        ("optimizer.weight_decay=-1", ["optimizer.weight_decay = -1", "greater than or equal to 0"]),
        ("optimizer.weight_decay=inf", ["optimizer.weight_decay = inf", "finite"]),
        ("optimizer.nesterov=true", ["optimizer.nesterov", "no such setting; optimizer 'adam' has"]),
        ("optimizer.warmup=20.5", ["optimizer.warmup = 20.5: must be at most train.epochs, 20"]),
        ("optimizer.warmup=-1", ["optimizer.warmup = -1", "greater than or equal to 0"]),
        (
            "optimizer.step_epochs=4",
            ["optimizer.step_epochs = 4: is for 'step', but", "schedule = 'constant'"],
        ),
        ("optimizer.step_factor=0.5", ["optimizer.step_factor = 0.5: is for 'step', but"]),
        ("optimizer.step_factor=0", ["optimizer.step_factor = 0", "greater than 0"]),
        ("optimizer.final=0.5", ["optimizer.final = 0.5: is for 'cosine', but"]),
        ("optimizer.final=2", ["optimizer.final = 2", "less than or equal to 1"]),
        ("averaging.workers=0", ["averaging.workers = 0", "greater than or equal to 1"]),
        ("averaging.topology=ring", ["averaging.topology = 'ring'", "'allreduce' or 'master'"]),
        ("averaging.algorithm=tree", ["averaging.algorithm = 'tree'", "'ring', 'recursive-doubling'"]),
        (
            "averaging.algorithm=binomial",
            [
                "averaging.algorithm = 'binomial': with topology 'allreduce' it must be one of 'library', 'ring'"
            ],
        ),
        ("averaging.reduction=slow", ["averaging.reduction = 'slow'", "'exact' or 'fast'"]),
        ("averaging.what=weights", ["averaging.what = 'weights'", "'parameters' or 'gradients'"]),
        ("data.train_images=0", ["data.train_images = 0", "greater than or equal to 1"]),
        ("data.prefetch=maybe", ["data.prefetch = 'maybe': must be true, false or 'auto'"]),
        ("data.path=7", ["data.path = 7", "valid string"]),
        ("network.name=a/b", ["network.name = 'a/b'", "letters, digits"]),
        ("network.layers=3", ["network.layers = 3: must be a list of layers"]),
        ("network.layers=[]", ["network.layers = []: must hold at least one layer"]),
        ("network.layers=[3]", ["network.layers[1]: kind = 3", "convolution, max_pool"]),
        ("network.layers=[{kind='dens'}]", ["network.layers[1]: kind = 'dens'", "dense, rectifier, dropout"]),
        ("network.layers=[{kind='dense',unit=3}]", ["network.layers[1].unit", "a dense has units, bias"]),
        ("network.layers=[{kind='max_pool'}]", ["network.layers[1].size: must be given"]),
        ("network.layers=[{kind='dropout',rate=1.0}]", ["network.layers[1].rate: 1.0", "less than 1"]),
        (
            "network.layers=[{kind='dense'},{kind='convolution',filters=1,size=1,padding='x'}]",
            ["network.layers[2].padding: 'x'", "'valid', 'same', 'full' or a number"],
        ),
        ("train.epochs", ["--set train.epochs: must be section.key=value"]),
        ("epochs=3", ["--set epochs=3: must be section.key=value"]),
        ("a.b.c=3", ["--set a.b.c=3: must be section.key=value"]),
    ],
)
def test_one_fault(change: str, parts: list[str]) -> None:
    (said,) = problems(change)
    for part in parts:
        assert part in said


def test_nesterov_wants_momentum() -> None:
    changes = ["optimizer.name=sgd", "optimizer.nesterov=true"]
    assert problems(*changes) == []
    (said,) = problems(*changes, "optimizer.momentum=0")
    assert said == "optimizer.nesterov = true: there must be momentum, but optimizer.momentum = 0"
    (said,) = problems(*changes, "optimizer.nesterov=1")
    assert "optimizer.nesterov = 1: must be a valid boolean" in said


def test_a_schedules_own_settings() -> None:
    step = ("optimizer.schedule=step", "optimizer.step_epochs=3", "optimizer.step_factor=0.5")
    assert problems(*step, "optimizer.warmup=20", "optimizer.scale=sqrt") == []
    assert problems("optimizer.schedule=cosine", "optimizer.final=0.01", "optimizer.warmup=0.5") == []
    assert len(problems("optimizer.schedule=cosine", *step[1:])) == 2


@pytest.mark.parametrize("period", ["0", "-1", "never", "2.5", "[1]"])
def test_period_that_is_none_names_the_choices(period: str) -> None:
    said = "\n".join(problems(f"averaging.period={period}"))
    assert "averaging.period = " in said
    assert "'epoch' or 'once'" in said


def test_all_faults_are_told_at_once_and_once(tmp_path: Path) -> None:
    path = toml(
        tmp_path, 'epochs = 3\n[trian]\nbatch = 3\n[train]\nbatch = "x"\nspeed = 1\n[network]\ndropout = 2\n'
    )
    settings, wrong = config.read(
        path, ["optimizer.name=rms", "averaging.workers=none", "train.epochs=4", "nothing"]
    )
    said = "\n".join(wrong)
    for text in (
        "epochs: there",
        "trian: there",
        "train.batch = 'x'",
        "train.speed: there",
        "network.dropout = 2",
    ):
        assert said.count(text) == 1, text
    for text in ("optimizer.name = 'rms'", "averaging.workers = 'none'", "--set nothing"):
        assert said.count(text) == 1, text
    assert len(wrong) == 8
    assert settings == Config.model_validate({"train": {"epochs": 4}})  # what is right comes through


@pytest.mark.parametrize("text", ["train = 5\n", 'train = "x"\n', "[[train]]\nepochs = 1\n"])
def test_section_that_is_none(text: str, tmp_path: Path) -> None:
    settings, wrong = config.read(toml(tmp_path, text))
    assert settings == Config()
    assert len(wrong) == 1
    assert "train = " in wrong[0]


def test_change_within_a_section_that_is_none(tmp_path: Path) -> None:
    _, wrong = config.read(toml(tmp_path, "train = 5\n"), ["train.epochs=2"])
    assert any("--set train.epochs=2: train is not a section" in said for said in wrong)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the config .*none\.toml: No such file"):
        config.read(tmp_path / "none.toml")
    with pytest.raises(InputError, match="Is a directory"):
        config.read(tmp_path)


def test_a_file_of_another_kind_in_place_of_the_config(tmp_path: Path) -> None:
    path = tmp_path / "images.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n\xff")
    with pytest.raises(InputError, match=r"images\.h5 is no text, .* --set data\.path=.*images\.h5"):
        config.read(path)


def test_a_section_that_is_none() -> None:
    assert config.read_table({"train": 3})[1] == ["train = 3: must be a section, a table of settings"]


@pytest.mark.parametrize("content", [b"[train\n", b"train epochs 3", b"[a]\n[a]\n"])
def test_file_that_is_no_toml(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"config\.toml is not TOML: "):
        config.read(path)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"data": {"path": 'a "quoted" \\ path\t\n', "train_images": 7, "reshuffle": 2}},
        {"data": {"path": "Bilder/größer/图像.h5"}},
        {"optimizer": {"name": "sgd", "learning_rate": 1e-7, "momentum": 0.0}},
        {"optimizer": {"name": "adam", "learning_rate": 0.1 + 0.2, "beta2": 1e-300}},
        {
            "optimizer": {
                "name": "sgd",
                "nesterov": True,
                "clip": 0.5,
                "weight_decay": 1e-4,
                "scale": "linear",
            }
        },
        {"optimizer": {"name": "adam", "schedule": "cosine", "final": 0.1, "warmup": 0.5}},
        {"averaging": {"workers": 7, "period": 3, "topology": "master", "reduction": "fast"}},
        {"averaging": {"period": "once"}},
        {"averaging": {"what": "gradients", "period": 1}},
        {"train": {"epochs": 100000, "batch": 1, "seed": 2**63 - 1}},
        {"train": {"patience": 3, "class_weights": "balanced"}, "data": {"validation": 0.1}},
        {"augment": {"shift": 2, "mirror": True, "crop": 24}},
    ],
)
def test_toml_reads_back_to_the_same_settings(sections: dict[str, Any], tmp_path: Path) -> None:
    settings = Config.model_validate(sections)
    assert config.read(toml(tmp_path, to_toml(settings))) == (settings, [])


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 5  # type: ignore[misc]


@pytest.mark.parametrize("change", ["sgd.momentum=0.5", "adam.learning_rate=0.1", "int.x=1", "literal.x=1"])
def test_section_named_as_an_optimizer_is_told(change: str) -> None:
    (said,) = config.read(None, [change])[1]
    assert said.startswith(f"{change.split('.')[0]}: there is no such setting")


@pytest.mark.parametrize("key", ["int", "adam", "sgd", "literally"])
def test_key_named_as_a_member_of_a_union_is_told(key: str) -> None:
    settings, wrong = config.read(None, [f"train.{key}=3", "train.epochs=7"])
    assert len(wrong) == 1
    assert f"train.{key}" in wrong[0]
    assert settings.train.epochs == 7


@pytest.mark.parametrize(
    "change", ["train.epochs=true", "averaging.workers=true", "averaging.period=true", 'train.epochs="3"']
)
def test_wrong_type_is_refused(change: str) -> None:
    assert config.read(None, [change])[1] != []


@pytest.mark.parametrize(
    "change",
    [
        *(
            "data.validation=0",
            "data.validation=1",
            "data.validation=1.5",
            "augment.shift=-1",
            "augment.crop=0",
        ),
        *("augment.mirror=1", "train.patience=0", "train.class_weights=even"),
    ],
)
def test_wrong_value_is_refused(change: str) -> None:
    assert len(config.read(None, [change])[1]) == 1


@pytest.mark.parametrize("name", ["\U0001f600.h5", "\U00020000.h5"])
def test_every_path_reads_back(name: str, tmp_path: Path) -> None:
    settings = Config.model_validate({"data": {"path": name}})
    (tmp_path / "c.toml").write_text(to_toml(settings), encoding="utf-8")
    assert config.read(tmp_path / "c.toml") == (settings, [])


def test_a_wrong_optimizer_does_not_hide_other_faults() -> None:
    said = "\n".join(config.read(None, ["optimizer.name=rms", "optimizer.learning_rate=-1"])[1])
    assert "rms" in said
    assert "optimizer.learning_rate = -1" in said


def test_a_period_of_zero_is_one_fault() -> None:
    assert len(config.read(None, ["averaging.period=0"])[1]) == 1


def test_every_fault_of_a_list_of_layers_is_told() -> None:
    said = problems("network.layers=[{kind='dense',unit=3},{kind='dropout'},{kind='average_pool',size=0}]")
    assert [text.split(":")[0] for text in said] == [
        "network.layers[1].unit",
        "network.layers[2].rate",
        "network.layers[3].size",
    ]


def test_layers_stand_in_for_a_network_of_the_zoo(tmp_path: Path) -> None:
    listed = "network.layers=[{kind='convolution',filters=2,size=3,padding='same'},{kind='dense',bias=false}]"
    settings, found = config.read(None, [listed])
    assert found == []
    assert (settings.network.name, settings.network.dropout) == ("layers", 0)
    again = tmp_path / "again.toml"
    again.write_text(to_toml(settings))
    assert config.read(again) == (settings, [])
    assert problems(listed, "network.dropout=0.5") == [
        "network.dropout = 0.5: beside network.layers, list layers of kind 'dropout'"
    ]
