"""One YAML is one experiment, and what is wrong in it is said by name."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tasks.config.experiment import Experiment
from tasks.config.loading import anchored, command_of, load
from tasks.config.section import shown
from tasks.data.files.kinds import NAMED_ALONE, SUFFIXES
from tasks.errors import UserError
from tasks.paths import PROJECT


@pytest.mark.parametrize("conf", sorted((PROJECT / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_every_conf_of_the_project_is_a_valid_experiment(conf: Path) -> None:
    """What the project ships loads; files.yaml wants its path first."""
    assert isinstance(load(conf), Experiment)


def test_overrides_go_over_the_yaml_and_the_yaml_over_the_defaults() -> None:
    """Precedence: model defaults < YAML < key=value, whose values parse as YAML."""
    experiment = load("conf/smoke.yaml", ["data.rows=7", "finetune.sft.learning_rate=2e-5", "promote.name=other"])
    assert experiment.data.rows == 7
    assert experiment.finetune.sft["learning_rate"] == 2e-5
    assert experiment.finetune.sft["num_train_epochs"] == 1  # from the YAML
    assert experiment.promote.name == "other"
    assert experiment.evaluate.resamples == 500 and Experiment().evaluate.resamples == 10_000


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.row=5", "data.row: there is no such key. Did you mean rows?"),
        ("finetne.enabled=false", "Did you mean finetune?"),
        ("finetune.prompt.questin=a", "finetune.prompt.questin: there is no such key. Did you mean question?"),
        ("data.rows=many", "data.rows: got 'many'"),
        ("data.rows=0", "data.rows: got 0"),
        ("seed=20261127223000", "seed: got 20261127223000. Input should be less than 4294967296"),
        ("data.test_share=1.5", "data.test_share: got 1.5"),
        ("data.price_min=.inf", "data.price_min"),
        ("data.price_min=2000", "must be below price_max"),
        ("finetune.device=tpu", "finetune.device: got 'tpu'"),
        ("baselines.models=[]", "or null for all. To fit none, set baselines.enabled=false."),
        ("baselines.models=[boosting, network, boosting]", "'boosting' is there twice. Name each model once."),
        ("data=5", "data: got 5"),
        ("data.rows.x=5", "data.rows"),
        ("rows", "Expected key=value"),
        ("=5", "Expected key=value"),
        ("data.rows=[1", "not readable as YAML"),
        ("schedule.cron=0 2 * *", "schedule.cron: got '0 2 * *'. It has 4 fields and not 5. Expected minute"),
        ("schedule.cron=0 25 * * *", "schedule.cron: got '0 25 * * *'. The hour cannot be '25'. Expected"),
        ("schedule.cron=0 2 * foo *", "The month cannot be 'foo'"),
        ("schedule.cron=*/0 * * * *", "The minute cannot be '*/0'"),
        ("schedule.cron=0 2 1- * *", "The day cannot be '1-'"),
        ("schedule.cron=0 2 * * funday", "The weekday cannot be 'funday'"),
        ("schedule.cron=@daily", "schedule.cron: got '@daily'. It has 1 field and not 5"),
        ("schedule.cron=0 0 2 * * *", "It has 6 fields and not 5"),
        ("schedule.cron=31 2 31 2 *", "This day never comes"),
        ("schedule.cron=0 2 30 2,2 *", "This day never comes"),
        ("schedule.cron=R 2 * * *", "The minute cannot be 'R'"),
        ("schedule.timezone=Europe/Berln", "such as Europe/Berlin"),
        ("schedule.busy=cancel", "'wait' or 'skip'"),
    ],
)
def test_a_bad_override_is_refused_by_name(override: str, expected: str) -> None:
    """The message holds the key, the value, and what was expected or the nearest valid name."""
    with pytest.raises(UserError) as caught:
        load("conf/smoke.yaml", [override])
    assert expected in str(caught.value)


@pytest.mark.parametrize("cron", ["0 2 * * *", "*/15 * * * *", "5,35 8-18/2 1 jan-mar MON", "0 0 29 2 *", "0 0 * * 7"])
def test_a_cron_is_taken_as_it_is_typed(cron: str) -> None:
    """Also one that starts with a star, which is no YAML by itself; and Prefect takes what is taken here."""
    from prefect.client.schemas.schedules import CronSchedule

    assert load("conf/smoke.yaml", [f"schedule.cron={cron}"]).schedule.cron == CronSchedule(cron=cron).cron == cron


def test_options_that_need_no_quotes_for_a_shell_need_none_for_us() -> None:
    """A comma is a comma, and another letter is refused with what was expected."""
    assert load("conf/files.yaml", ["data.decimal=,"]).data.decimal == ","
    assert load("conf/files.yaml", ["data.decimal=."]).data.decimal == "."
    assert load("conf/files.yaml", ["data.path=~/goods.csv"]).data.path == str(Path("~/goods.csv").expanduser())
    with pytest.raises(UserError, match=r"data\.decimal"):
        load("conf/files.yaml", ["data.decimal=;"])


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        *((word, word) for word in ("No", "2024", "shop #1", "Name: full", "*new", "@id", "true", "2026-01-01")),
        *(("'No'", "No"), ('"a b"', "a b"), ("[No way, b]", ("No way", "b")), (" padded ", "padded")),
    ],
)
def test_the_names_of_columns_and_files_are_meant_as_they_stand(value: str, meant: str | tuple[str, ...]) -> None:
    """Also where YAML would read a number, a comment or yes and no; quotes and lists are YAML all the same."""
    assert load("conf/files.yaml", [f"data.columns.title={value}"]).data.columns == {"title": meant}
    if isinstance(meant, str):
        path = str(Path.cwd() / meant)
        assert load("conf/files.yaml", [f"data.path={value}"]).data.path == path
        assert load("conf/files.yaml", anchored([f"data.path={value}"])).data.path == path


@pytest.mark.parametrize("value", ["2024", "on", ".00", "1e5", "0012", "2026-01-01", "Price: $", "@home", "a #1"])
def test_a_text_is_meant_as_it_stands(tmp_path: Path, value: str) -> None:
    """Also where YAML would read something else, as it does in a file, where the message says what to do."""
    found = load(
        "conf/smoke.yaml", [f"data.name={value}", f"finetune.prompt.suffix={value}", f"data.revision='{value}'"]
    )
    assert found.data.name == found.finetune.prompt.suffix == found.data.revision == value
    conf = tmp_path / "own.yaml"
    conf.write_text("data: {name: 2024}")
    with pytest.raises(
        UserError, match=r"data\.name: got 2024\. Input should be a valid string\. Put it into quotes\."
    ):
        load(conf)


@pytest.mark.parametrize("nothing", ["", "null", "~"])
def test_a_path_can_be_taken_back(nothing: str) -> None:
    """What stands for nothing is no name."""
    assert load("conf/files.yaml", [f"data.path={nothing}"]).data.path is None


def test_one_currency_needs_no_brackets() -> None:
    """Several are a list."""
    assert load("conf/files.yaml", ["data.currency=€"]).data.currency == ("€",)
    assert load("conf/files.yaml", ["data.currency=[€, EUR]"]).data.currency == ("€", "EUR")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: [", r"not readable as YAML: .* \(line 1, column 8\)"),
        ("schedule:\n  cron: @daily", r"\(line 2, column 9\)\. Put a text that begins with .* into quotes"),
        ("- 1", "should hold sections"),
        (
            "seed: 1\nfinetune:\n  enabled: false\ndata: {rows: 9}\nfinetune: {base: a}",
            r"finetune is there twice, first in line 2: .* \(line 5, column 1\)",
        ),
        ("data:\n  rows: 1\n  seed: 2\n  rows: 3", r"rows is there twice, first in line 2: .* \(line 4, column 3\)"),
        ("\xff", "YAML"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    """A broken file is one message, not a traceback."""
    conf = tmp_path / "broken.yaml"
    conf.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=expected):
        load(conf)


def test_a_section_without_keys_says_nothing(tmp_path: Path) -> None:
    """Where all of them are commented out, what is below stands: the defaults, or another file. Where null is a value
    of its own, it is one."""
    below, above = tmp_path / "below.yaml", tmp_path / "above.yaml"
    below.write_text("data:\n  rows: 7\n  columns: {title: a}\nfinetune: {quantization: {load_in_4bit: true}}\n")
    above.write_text("evaluate:\n  # budget: 2\nfinetune:\n  prompt:\n  lora:\n  quantization: null\ndata:\n")
    assert load(above) == Experiment()
    both = load(f"{below},{above}", ["evaluate.budget=3"])
    assert (both.data.rows, both.data.columns, both.finetune.quantization) == (7, {"title": "a"}, None)
    assert both.evaluate.budget == 3


def test_what_is_merged_into_a_section_may_be_set_again(tmp_path: Path) -> None:
    """A merge gives defaults, and what the section itself says goes over them: that is no key twice."""
    conf = tmp_path / "merged.yaml"
    conf.write_text("data: &one {rows: 7}\nfinetune:\n  sft: {<<: *one, rows: 8, <<: {a: 1}}\n  lora: {<<: *one}\n")
    finetune = load(conf).finetune
    assert (finetune.sft, finetune.lora) == ({"rows": 8, "a": 1}, {"rows": 7})


def test_a_missing_conf_names_those_that_exist() -> None:
    """The remedy is in the message."""
    with pytest.raises(UserError, match=r"conf/laptop\.yaml"):
        load("conf/lptop.yaml")


def test_paths_belong_to_where_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path on the command line is relative to the current folder, one in a YAML to the project; the default conf is
    found from anywhere."""
    monkeypatch.chdir(tmp_path)
    here = load("conf/files.yaml", ["data.path=items.jsonl"])
    assert here.data.path == str(tmp_path / "items.jsonl")
    (tmp_path / "mine.yaml").write_text("data: {source: files, path: data/items.jsonl}")
    assert load(tmp_path / "mine.yaml").data.path == str(PROJECT / "data" / "items.jsonl")
    assert load().data.source == "sample"


def test_a_folder_of_a_model_is_a_path_and_a_name_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved with a model must be found from anywhere; a hub id stays as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    found = load("conf/smoke.yaml", ["finetune.base=models/mine", "finetune.prompt.encoder=./models/mine"]).finetune
    assert found.base == found.prompt.encoder == str(tmp_path / "models" / "mine")
    assert anchored(["finetune.base=./models/mine"]) == [f'finetune.base="{tmp_path}/models/mine"']
    assert load("conf/smoke.yaml", ["finetune.base=org/model"]).finetune.base == "org/model"
    (tmp_path / "mine.yaml").write_text("finetune: {base: ./tests}")
    assert load(tmp_path / "mine.yaml").finetune.base == str(PROJECT / "tests")


def test_a_file_without_a_conf_that_reads_it_is_not_left_out_in_silence() -> None:
    """The default conf reads no file; what finds out how to read one is named."""
    for source in ("sample", "hub", "amazon"):
        expected = rf"the source is {source}\. `pricewright init /x/goods\.csv` looks at the file"
        with pytest.raises(UserError, match=expected):
            load(overrides=[f"data.source={source}", "data.path=/x/goods.csv"])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/shop/goods.csv.gz", "goods"),
        ("https://shop.example/goods.csv?X-Amz-Credential=K/eu/s3&X-Amz-Signature=0a1b", "goods"),
        ("https://shop.example/export?sig=0a1b", "export"),
        ("s3://shop/*.parquet", "shop"),
        ("/shop/товары 2026/**/*.csv", "товары-2026"),
        *((f"/shop/goods.eu{suffix}", "goods-eu") for suffix in (*SUFFIXES, *NAMED_ALONE, ".CSV")),
        ("/shop/goods.us.v2.csv", "goods-us-v2"),
        ("/shop/part-*.jsonl*", "part"),
        ("/shop/sample.csv", "sample-files"),
    ],
)
def test_a_dataset_is_called_as_its_file_is(path: str, name: str) -> None:
    """Up to its suffix, so that products.eu.csv and products.us.csv are two, and never as the generated catalogue is.
    The query of an address, which may hold a signature, is no part of the name."""
    assert load("conf/files.yaml", [f"data.path={path}"]).data.dataset_name == name


def test_each_dataset_has_a_registered_model_of_its_own() -> None:
    """Whatever its letters; a dataset of the hub is called as its repository, and the generated one as its source."""

    def champions(*overrides: str) -> str:
        return load("conf/files.yaml", overrides).registered_model

    assert champions("data.path=/shop/товары.csv") == "pricewright-товары"
    assert champions("data.path=/shop/мебель.csv") == "pricewright-мебель"
    assert champions("data.name=../../a b") == "pricewright--a-b"
    assert champions("data.source=hub", "data.repo=shop/goods-1.5") == "pricewright-goods-1-5"
    assert champions("data.source=amazon", "data.repo=shop/copy") == "pricewright-amazon"
    assert champions("data.source=new", "data.path=/shop/goods.xml") == "pricewright-goods-xml"
    assert champions("data.source=new", "data.repo=shop/goods") == "pricewright-goods"
    assert champions("data.source=new") == "pricewright-new"
    assert Experiment().registered_model == "pricewright-sample"


def test_options_that_only_sound_like_keys_are_taken() -> None:
    """Those of the libraries that end as keys do, and those that hold such a word; headers that hold no key."""
    sft = ["finetune.sft.eos_token=</s>", "finetune.sft.pad_token=<pad>"]
    assert load("conf/smoke.yaml", sft).finetune.sft["eos_token"] == "</s>"
    parameters = (
        "{max_tokens: 5, prompt_cache_key: a, logit_bias: {50256: -1}, extra_headers: {X-Title: shop, User-Agent: me}}"
    )
    api = f"[{{name: m, input_price: 0, output_price: 0, parameters: {parameters}}}]"
    (model,) = load("conf/smoke.yaml", [f"evaluate.api={api}"]).evaluate.api
    assert model.parameters["extra_headers"] == {"X-Title": "shop", "User-Agent": "me"}


def test_overrides_for_another_folder_have_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is typed here means the same where a worker runs it; everything else stays as it was."""
    monkeypatch.chdir(tmp_path)
    typed = [
        "data.source=files",
        "data.path=my items \U0001fa91.jsonl",
        "evaluate.recorded=[a.csv, /b.csv]",
        "schedule.cron=* * * * *",
    ]
    here, there = load("conf/smoke.yaml", typed), anchored(typed)
    monkeypatch.chdir("/")
    assert load("conf/smoke.yaml", there) == here
    assert there[0] == typed[0] and there[3] == typed[3]


def test_the_query_of_an_address_is_not_shown() -> None:
    """It may be a signature, in a list of addresses too; what else stands in a conf is shown as it is."""
    conf = {"data": {"path": "https://shop.example/goods.csv?X-Amz-Signature=0a1b", "rows": 3}, "recorded": ["a?b"]}
    assert shown(conf) == {"data": {"path": "https://shop.example/goods.csv", "rows": 3}, "recorded": ["a?b"]}
    assert shown({"recorded": ["HTTP://shop.example/a.csv?sig=1"]}) == {"recorded": ["HTTP://shop.example/a.csv"]}
    chained = "simplecache::https://shop.example/a.csv"
    assert shown({"path": f"{chained}?sig=1"}) == {"path": chained}


def test_the_command_of_a_report_holds_no_query_of_an_address() -> None:
    """Neither of one that stands alone, whatever its query holds, nor of one in a list; the rest stays as typed."""
    signed = "https://shop.example/goods.csv?expires=1,2&X-Amz-Signature=0a1b"
    typed = [f"data.path={signed}", f'evaluate.recorded=["{signed}", a.csv]', "data.columns.title=a?b", "seed=7"]
    typed += ["schedule.cron=* * * * *", "data.runner=tcp://host:8786", "tracking.uri=https://host"]
    assert shlex.split(command_of("own.yaml", typed))[4:] == [
        "data.path=https://shop.example/goods.csv",
        'evaluate.recorded=["https://shop.example/goods.csv", "a.csv"]',
        *typed[2:6],
    ]
