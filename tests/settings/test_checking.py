"""A document against a model: every mistake in a sentence of its own, with file, key, value and the nearest name."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from dqo.errors import DataError, RecipeError, nearest
from dqo.settings.checking import Strict, check


class Part(Strict):
    rate: Annotated[float, Field(gt=0)] = 1e-5
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    alpha: Annotated[float, Field(ge=0)] | Literal["auto"] = 1.0


class Whole(Strict):
    name: str
    part: Part = Part()
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0])
    words: list[str] | str | None = None
    options: dict[str, Any] = Field(default={})

    @field_validator("name")
    @classmethod
    def check_name(cls, name: str) -> str:
        if name == "bad":
            raise ValueError("`name` must not be bad.")
        return name


def test_a_right_document_becomes_the_model():
    whole = check(Whole, {"name": "x", "part": {"rate": 1, "alpha": "auto"}, "words": ["a"]}, "f.yaml")
    assert (whole.part.rate, whole.part.alpha, whole.part.share, whole.words) == (1, "auto", 0.5, ["a"])


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({}, "f.yaml: expected the setting `name`, got none; add a line `name: ...`."),
        ({"name": 1}, "f.yaml: `name` must be text, got 1; change the value."),
        ({"name": "bad"}, "f.yaml: `name` must not be bad."),
        ({"name": "x", "part": 3}, "f.yaml: `part` must be a mapping, got 3; change the value."),
        ({"name": "x", "part": {"rate": 0}}, "f.yaml: `part.rate` must be above 0, got 0; change the value."),
        ({"name": "x", "part": {"rate": float("inf")}}, "`part.rate` must be a finite number, got inf"),
        ({"name": "x", "part": {"rate": 10**400}}, "`part.rate` must be a number, got 1000"),
        ({"name": "x", "part": {"rate": True}}, "`part.rate` must be a number, got True"),
        ({"name": "x", "part": {"share": 2}}, "`part.share` must be at most 1, got 2"),
        ({"name": "x", "part": {"alpha": "aut"}}, "`part.alpha` must be a number or auto, got 'aut'"),
        ({"name": "x", "part": {"alpha": -1}}, "`part.alpha` must be at least 0 or auto, got -1"),
        ({"name": "x", "seeds": [0, 1.5]}, "`seeds.1` must be a whole number, got 1.5"),
        ({"name": "x", "words": 3}, "`words` must be a list or text, got 3"),
        ({"name": "x", "rat": 3}, "f.yaml: expected a known setting, got 'rat'; did you mean 'part.rate'?"),
        ({"name": "x", "part": {"nmae": 3}}, "got 'part.nmae'; did you mean 'name'?"),
        ({"name": "x", "zzz": 3}, "got 'zzz'; choose one of name, part, seeds, words, options, or remove it."),
        ({"name": "x", "part": {"zzz": 3}}, "got 'part.zzz'; choose one of rate, share, alpha, or remove it."),
    ],
)
def test_a_mistake_is_a_sentence(document, sentence):
    with pytest.raises(RecipeError) as found:
        check(Whole, document, "f.yaml")
    assert sentence in str(found.value)
    assert str(found.value).count("f.yaml") == 1


def test_all_mistakes_are_reported_at_once_each_with_its_origin():
    origin = {"": "f.yaml", "part.rate": "override 'part.rate=0'", "seeds": "arm 'a'"}
    with pytest.raises(DataError) as found:
        check(Whole, {"part": {"rate": 0, "shre": 1}, "seeds": [-1]}, origin, error=DataError)
    for sentence in (
        "f.yaml: expected the field `name`",  # of data
        "override 'part.rate=0': `part.rate` must be above 0",
        "f.yaml: expected a known field, got 'part.shre'; did you mean 'part.share'?",
        "arm 'a': `seeds.0` must be at least 0, got -1",
    ):
        assert sentence in str(found.value)


def test_advice_for_what_belongs_elsewhere():
    with pytest.raises(RecipeError, match=r"`part.seed` has no place here; set `seeds`"):
        check(Whole, {"name": "x", "part": {"seed": 3}}, "f.yaml", advice={"part.seed": "set `seeds`"})


def test_models_do_not_change():
    with pytest.raises(ValidationError):
        Part().rate = 3


def test_of_two_settings_with_one_last_part_the_first_is_meant():
    assert nearest("alhpa", ["alpha", "lora.alpha"]) == "alpha"
    assert nearest("trainer.lerning_rate", ["trainer.learning_rate"]) == "trainer.learning_rate"
    assert nearest("zzz", ["alpha"]) is None
