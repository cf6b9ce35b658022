"""Language mixing, counted by hand."""

import math

import pytest

from dqo.diversity.tricks import language_mixing

ASK = "Write one sentence about an everyday scene that uses all of these words: ball, dog, run."


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("The dog runs after the ball.", 0.0),
        ("El perro corre por la calle con una pelota.", 1.0),  # el, por, con, una
        ("The dog runs und der Hund spielt.", 2 / 3),  # the | und, der
        ("Собака бежит за мячом.", 1.0),
        ("The dog 狗在跑步.", 0.5),  # the | one run of Chinese letters
        ("Paris", math.nan),
        ("", math.nan),
        ("42 + 1", math.nan),
    ],
)
def test_share_of_words_of_another_language(text, share):
    assert language_mixing(text, ASK) == pytest.approx(share, nan_ok=True)


def test_the_prompt_s_own_language_is_no_mixing_whichever_it_is():
    german = "Schreibe einen Satz, der das Wort Hund und das Wort Ball enthält."
    assert language_mixing("Der Hund spielt mit dem Ball.", german) == 0.0
    assert language_mixing("The dog is in the park.", german) == 1.0
    russian = "Напиши предложение о собаке."
    assert math.isnan(language_mixing("Собака бежит.", russian)), "one script, and no list of its words"
    assert language_mixing("The dog.", russian) == 1.0


def test_japanese_and_chinese_letters_are_not_told_apart():
    assert math.isnan(language_mixing("いぬがはしる", "犬について一文を書いてください。"))


def test_everyday_english_is_not_taken_for_another_language():
    texts = [
        "I want to die of laughter, she also told me on a hot day.",
        "A man made no sense, so I came to an old bar at noon.",
        "We war against the sin of a son in his den.",
        "A farmer in a hat stacks the hay.",
        "They come home and pour tea near the van, plus milk.",
        "She met him at the pros and cons, or con, of Los Angeles and Las Vegas.",
        "Solve x + y for the Mit and IM channels of example.com on an OS from 40 CE, op-ed en route.",
        "Ed von Hill had a dal, the sous chef an aux cable, and the ER om: lo and behold, two dos.",
    ]
    assert [language_mixing(text, ASK) for text in texts] == [0.0] * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        "Los niños puede que jueguen en el parque por la tarde.",
        "Les enfants jouent dans le jardin avec une balle.",
        "Die Kinder spielen nicht mit einem Ball, sie sind müde.",
        "I bambini giocano nella piazza e il cane è molto stanco.",
        "Os meninos não brincam com uma bola, mas ela também está feliz.",
        "De kinderen spelen niet met een bal, maar zij hebben het veel.",
    ],
)
def test_whole_sentences_of_the_other_languages_are_told(text):
    assert language_mixing(text, ASK) == 1.0
    assert language_mixing(text, text) == 0.0
