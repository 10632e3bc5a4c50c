"""The sections of an experiment: typed and checked, so that a bad value is refused with its key."""

from __future__ import annotations

import codecs
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tasks.config.schedule import Schedule
from tasks.config.section import FROM_ENVIRONMENT, PASSWORD, Count, Listed, Options, Place, Section, Share

AMAZON = (
    *("Automotive", "Electronics", "Office_Products", "Tools_and_Home_Improvement", "Cell_Phones_and_Accessories"),
    *("Toys_and_Games", "Appliances", "Musical_Instruments"),
)
# What ends the name of a file of data. Other dots are of the name: products.eu.csv and products.us.csv are two shops.
SUFFIX = re.compile(r"(\.(jsonl|ndjson|jl|json|csv|tsv|txt|tab|parquet))?(\.gz)?$", re.IGNORECASE)
GLOB = re.compile(r"[*?\[]")
GENERATED = "sample"  # the source whose products a program makes up
NO_PATH = (GENERATED, "hub", "amazon")  # the sources that know no data.path; any other may
Column = Literal["id", "title", "text", "description", "features", "details", "category", "price"]


class Data(Section):
    """Where the products come from, which are kept, and how they are split."""

    source: str = Field(GENERATED, description="a name in tasks.data.sources.SOURCES")
    name: str | None = Field(None, description="how the dataset is called in MLflow; by default as its file or repo")
    rows: Count = Field(3000, description="size of the generated catalogue (source: sample)")
    path: Place | None = Field(None, description="a file, folder or glob (source: files)")
    test_path: Place | None = Field(None, description="a fixed test set: cleaned, but never dropped, merged or moved")
    repo: str | None = Field(None, description="a dataset of the Hugging Face hub (source: hub)")
    files: str = Field("*", description="which of its files, as a glob of their paths (source: hub)")
    revision: str | None = Field(
        None, description="a commit of the hub's dataset; a branch moves (sources: hub, amazon)"
    )
    categories: tuple[str, ...] = Field(AMAZON, min_length=1, description="which categories (source: amazon)")
    columns: dict[Column, str | tuple[str, ...]] = Field(default_factory=dict, description="our field: their column")

    currency: Annotated[tuple[str, ...], Listed] = Field(
        ("$", "US$", "USD"), description="signs that may stand beside a price; the first is shown"
    )
    decimal: Literal[".", ","] | None = Field(
        None, description="the mark before the cents in prices that are text; null: as the whole column shows"
    )
    encoding: str | None = Field(None, description="of text files, such as cp1251; null: found out, and said")
    price_min: float = Field(0.5, gt=0, description="lowest price kept")
    price_max: float = Field(999.49, gt=0, description="highest price kept")
    text_min: int = Field(20, ge=0, description="fewest characters of title and text kept")
    body_min: int = Field(0, ge=0, description="fewest characters of text without the title kept")
    text_max: Count = Field(20_000, description="longer texts are cut to this many characters")
    tokenizer: str | None = Field(
        None, description="counts tokens: an embedded model, a folder or a hub id; null: nobody"
    )
    tokens_min: int = Field(0, ge=0, description="fewest tokens of title and text kept")
    part_numbers: Literal["scrub", "keep"] = Field("scrub", description="words of 7 characters or more with a digit")
    leaks: Literal["scrub", "drop", "keep"] = Field("scrub", description="what to do where a text states its price")
    slot_items: Count | None = Field(None, description="at most this many for each whole dollar, drawn by weight")
    slot_below: float = Field(240, gt=0, description="dollars; from here on, slot_items does not hold")
    category_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict, description="1 by default")
    near: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.7, description="texts this alike (Jaccard, of words and word pairs) are near duplicates; null: no search"
    )
    validation_share: Share = 0.1
    test_share: Share = 0.1
    train_items: Count | None = Field(None, description="at most this many, the first by hash")
    validation_items: Count | None = Field(None, description="at most this many, the first by hash")
    test_items: Count | None = Field(None, description="at most this many, the first by hash")
    runner: str = Field("processes", description="processes, threads, dask, or the address of a Dask scheduler")

    @property
    def dataset_name(self) -> str:
        """What the dataset is called: the conf's name for it, that of its file (of the folder for a glob such as *.csv)
        or of its repository on the hub, or that of its source."""
        path = "" if self.source in (GENERATED, "amazon") else self.path or self.repo or ""
        path = path.partition("?")[0] if "://" in path else path  # the query of an address may hold a signature
        ending = SUFFIX if self.path else ""
        names = (re.sub(r"\..*" if GLOB.search(part) else ending, "", part) for part in reversed(Path(path).parts))
        words = (re.sub(r"[^\w-]+", "-", name).strip("-") for name in names)
        found = self.name or next(filter(None, words), self.source)
        # A file of this name must not meet the champion of the products that are made up.
        return f"{found}-{self.source}" if found == GENERATED != self.source else found

    @property
    def unit(self) -> str:
        """What the prices are in, as it is shown beside them; nothing is converted."""
        return self.currency[0] if self.currency else "$"

    def rules(self) -> str:
        """What makes items of raw rows, as JSON; where the rows lie is not of it."""
        return self.model_dump_json(exclude={"path", "test_path", "runner"})

    @field_validator("encoding")
    @classmethod
    def _an_encoding(cls, value: str | None) -> str | None:
        try:
            return None if value is None else codecs.lookup(value).name
        except LookupError:
            raise ValueError("Expected the name of an encoding that Python knows, such as utf-8 or cp1251") from None

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if self.price_min >= self.price_max:
            raise ValueError(f"price_min ({self.price_min}) must be below price_max ({self.price_max})")
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share together must leave something to train on")
        if self.path and self.source in NO_PATH:
            raise ValueError(
                f"path is for the source files, and the source is {self.source}. `pricewright init "
                f"{shlex.quote(self.path)}` looks at the file and writes a conf for it; or take -c conf/files.yaml"
            )
        if self.tokens_min and not self.tokenizer:
            raise ValueError("tokens_min needs data.tokenizer, the tokenizer that counts them")
        if self.runner not in ("processes", "threads", "dask") and "://" not in self.runner:
            raise ValueError("runner must be processes, threads, dask, or a Dask scheduler such as tcp://host:8786")
        return self


class Baselines(Section):
    """The classic models."""

    enabled: bool = True
    models: list[str] | None = Field(None, description="names in BASELINES; all of them by default")

    @field_validator("models")
    @classmethod
    def _some(cls, value: list[str] | None) -> list[str] | None:
        if value == []:
            raise ValueError("Expected one name or more, or null for all. To fit none, set baselines.enabled=false")
        names = value or []
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]!r} is there twice. Name each model once")
        return value


class Prompt(Section):
    """How a product is put to a language model, and the range of whole prices it may answer."""

    question: str = "How much does this cost to the nearest dollar?"
    prefix: str = Field("Price is $", description="the end of the prompt, directly before the price")
    suffix: str = Field(".00", description="what follows the whole price in the completion")
    text_tokens: Count = Field(160, description="title and text are cut to this many tokens")
    lowest: int = Field(0, ge=0, description="lowest price the model can answer, in units")
    highest: int = Field(999, ge=1, description="highest price the model can answer, in units")
    comparables: int = Field(0, ge=0, description="so many prices of similar training items are put into the prompt")
    similar: str = Field("Similar products cost", description="what stands before those prices")
    nearest: Literal["words", "meaning", "both"] = Field(
        "words", description="what makes items similar: words they share, an encoder's vectors, or the ranks by both"
    )
    encoder: str = Field("minilm-l6-v2", description="for meaning: an embedded encoder, a folder, or a hub id")
    titles: int = Field(0, ge=0, description="so many tokens of each comparable's title stand beside its price")
    spread: bool = Field(False, description="between which prices the middle half of the comparables lies is told, too")
    sizes: bool = Field(False, description="weight, measures and pack are told in words, wherever the text states them")
    opinions: list[str] = Field(default_factory=list, description="classic models that the model is told the price of")
    opinion: str = Field("Other models say", description="what stands before those prices")
    unit: float = Field(1.0, gt=0, description="what one is worth in dollars: 0.01 where the model answers in cents")

    @model_validator(mode="after")
    def _consistent(self) -> Prompt:
        if self.lowest > self.highest:
            raise ValueError(f"lowest ({self.lowest}) must not be above highest ({self.highest})")
        if not self.comparables and (self.titles or self.spread or self.nearest != "words"):
            raise ValueError(
                "titles, spread and nearest are about comparables, of which there are 0: set comparables=8"
            )
        return self

    @property
    def tells_more(self) -> bool:
        """Whether it tells more than the item's own text says: what is known of the training items."""
        return bool(self.comparables or self.opinions)


class Answer(Section):
    """How a language model's distribution over prices becomes its answer."""

    by: Literal["text", "head"] = Field(
        "text", description="text: its own words; head: a layer on its last hidden state, trained with the adapter"
    )
    bins: Annotated[int, Field(ge=8)] = Field(96, description="of log price that the head tells apart")
    rate: float = Field(1e-3, gt=0, description="learning rate of the head")
    estimate: str = Field(
        "median", description="a name in tasks.models.language.estimators.ESTIMATORS, or greedy: the most probable text"
    )
    temperature: Annotated[float, Field(gt=0)] | Literal["fit"] = Field(
        1.0, description="above 1 widens the distribution; fit: by CRPS, on validation items no model is chosen on"
    )
    prune: Share = Field(0.0, description="probability of unlikely price prefixes that may be left unexpanded")
    closing: int | None = Field(
        8, ge=0, description="longest numbers of an item that are asked whether they end there; null: all of them"
    )
    batch_tokens: Count = Field(8192, description="tokens in one forward pass")


class Finetune(Section):
    """QLoRA in upstream's own names: sft, lora and quantization go straight into their libraries' configs."""

    enabled: bool = True
    base: str = Field("smollm2-135m", description="an embedded model, a folder, or a hub id")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="to compute in; auto: bfloat16 where the hardware has it, else float32"
    )
    prompt: Prompt = Prompt()
    answer: Answer = Answer()
    train_items: Count | None = Field(None, description="train the language model on at most this many items")
    score_items: Count = Field(64, description="validation items that every checkpoint is scored on")
    checkpoints: Annotated[int, Field(ge=1)] = Field(
        5, description="at most so many, equally far apart, and the last at the end; each is scored and kept"
    )
    sft: Options = Field(default_factory=dict, description="trl.SFTConfig")
    lora: Options = Field(default_factory=dict, description="peft.LoraConfig")
    patience: Count | None = Field(None, description="stop after so many checkpoints that were no better; null: never")
    checkpoints_in: Literal["disk", "store"] = Field(
        "disk", description="where a training can go on from: this disk alone, or the artifact store, on any machine"
    )
    keep: Count | None = Field(None, description="adapters kept: the best so many and the last; null: all of them")
    average: Annotated[int, Field(ge=2)] | None = Field(
        None, description="the mean of so many best checkpoints is one more candidate; null: none is made"
    )
    processes: Count = Field(1, description="one for each GPU; each takes a batch of per_device_train_batch_size")
    busy: Literal["wait", "fail"] = Field("wait", description="what to do while another training has the GPU")
    oversize: Literal["refuse", "try"] = Field("refuse", description="what to do if the estimated memory is not there")
    quantization: dict[str, Any] | None = Field(None, description="transformers.BitsAndBytesConfig; null for none")


class Api(Section):
    """A model behind an OpenAI-compatible endpoint; `parameters` go straight into chat.completions.create."""

    name: str = Field(min_length=1, description="its name on the leaderboard")
    model: str | None = Field(None, description="what the endpoint calls it; its name by default")
    base_url: str = "https://api.openai.com/v1"
    key_env: str | None = Field("OPENAI_API_KEY", description="the environment variable that holds the key; null: none")
    input_price: float = Field(ge=0, description="dollars per million tokens; 0 for a server of your own")
    output_price: float = Field(ge=0, description="dollars per million tokens; 0 for a server of your own")
    system: str = "You estimate prices of items. Reply only with the price, no explanation"
    question: str = "How much does this cost?"
    text_characters: Count = Field(2000, description="title and text are cut to this many")
    parameters: Options = Field(default_factory=lambda: {"temperature": 0, "max_tokens": 32, "seed": 42})
    concurrency: Count = 8
    timeout: float = Field(60, gt=0, description="seconds for one answer")
    retries: int = Field(5, ge=0, description="of a call met with 429, 5xx or silence, each after a longer pause")

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[^@\s]+", value):
            raise ValueError("Expected http:// or https://, without a user or password")
        return value

    @field_validator("key_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", value):
            raise ValueError("Expected the name of an environment variable, such as OPENAI_API_KEY, not the key itself")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Api:
        if ours := {"model", "messages", "n", "stream"} & self.parameters.keys():
            raise ValueError(f"parameters.{min(ours)} is set by the pipeline; leave it out")
        if not isinstance(self.most_tokens, int) or self.most_tokens < 1:
            raise ValueError("parameters must bound the answer: give max_tokens or max_completion_tokens, 1 or more")
        return self

    @property
    def most_tokens(self) -> Any:
        """The longest answer that can be charged for."""
        return self.parameters.get("max_completion_tokens", self.parameters.get("max_tokens"))

    @property
    def free(self) -> bool:
        """Whether asking costs nothing."""
        return self.input_price == self.output_price == 0


# The frontier models of the recipe, at the prices of their provider's list.
FRONTIER = (
    Api(name="gpt-4o", input_price=2.5, output_price=10),
    Api(name="gpt-4o-mini", input_price=0.15, output_price=0.6),
)


class Evaluate(Section):
    """Who else is on the leaderboard, and how figures get their uncertainty."""

    blend_items: int = Field(128, ge=0, description="validation items that the blend of all models is fitted on")
    resamples: Annotated[int, Field(ge=100)] = Field(10_000, description="bootstrap resamples")
    machine_per_hour: float | None = Field(None, gt=0, description="dollars an hour of this machine costs")
    human: Place | None = Field(None, description="a sheet of `pricewright human`, filled in")
    recorded: Annotated[list[Place], Listed] = Field(
        default_factory=list, description="CSV files of other people's guesses: id, model, guess"
    )
    api: list[Api] = Field(list(FRONTIER), description="models behind an API")
    budget: float = Field(0, ge=0, description="dollars that all their answers may cost together; 0: none is bought")

    @model_validator(mode="after")
    def _named_apart(self) -> Evaluate:
        names = [model.name for model in self.api]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"api: two models are called {min(twice)}; give each a name of its own")
        return self


class Promote(Section):
    """Who becomes champion."""

    name: str | None = Field(
        None, pattern="^[^/:'\"]+$", description="the registered model; pricewright-<name of the dataset> by default"
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="spent over all looks at test items for one registered model")


class Tracking(Section):
    """Where MLflow keeps its database and artifacts; mlruns/ in the project by default."""

    uri: str | None = Field(
        None, description="a tracking server or a database; $NAME in it is taken from the environment"
    )
    artifacts: Place | None = Field(None, description="a folder or the address of a store, for a new experiment")
    experiment: str = Field("pricewright", min_length=1)

    @field_validator("uri")
    @classmethod
    def _an_address_without_password(cls, value: str | None) -> str | None:
        passwords = re.findall(PASSWORD, value or "")
        if any(not re.fullmatch(FROM_ENVIRONMENT, before or after) for before, after in passwords):
            raise ValueError(
                "A password belongs into the environment: write $NAME in its place, where NAME is a variable"
            )
        if value is not None and not re.match(r"(https?|(sqlite|postgresql|mysql|mssql)(\+\w+)?)://", value):
            raise ValueError(
                "Expected an address such as https://HOST, sqlite:///FILE or postgresql://USER@HOST/DATABASE"
            )
        return value


class Retention(Section):
    """What `pricewright gc` keeps, besides everything that the aliases need."""

    keep_days: float = Field(30, ge=0, description="stage runs of the last so many days are kept")
    keep_best: int = Field(
        5, ge=0, description="so many evaluations of each dataset are kept, those with the best models"
    )


class Experiment(Section):
    """Everything that one run of the pipeline depends on, besides data and code."""

    seed: int = Field(42, ge=0, lt=2**32, description="NumPy takes no larger one")
    data: Data = Data()
    baselines: Baselines = Baselines()
    finetune: Finetune = Finetune()
    evaluate: Evaluate = Evaluate()
    promote: Promote = Promote()
    tracking: Tracking = Tracking()
    schedule: Schedule = Schedule()
    gc: Retention = Retention()

    @property
    def registered_model(self) -> str:
        """The registered model whose champion this experiment may replace: each dataset has its own."""
        dataset = re.sub(r"[^\w-]+", "-", self.data.dataset_name)
        return self.promote.name or f"pricewright-{dataset}"
