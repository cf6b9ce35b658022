import pytest

from dqo.rewards.coverage import coverage, is_form
from dqo.tasks.concept_words import SCENES

CONCEPTS = ["ball", "dog", "run"]


@pytest.mark.parametrize(
    ("word", "concept"),
    [
        ("ran", "run"), ("running", "run"), ("swimming", "swim"), ("children", "child"), ("dogs", "dog"),
        ("dog's", "dog"), ("leaves", "leaf"), ("leaves", "leave"), ("left", "leave"), ("knives", "knife"),
        ("loaves", "loaf"), ("carries", "carry"), ("carried", "carry"), ("carrying", "carry"), ("tying", "tie"),
        ("lying", "lie"), ("building", "build"), ("visited", "visit"), ("baking", "bake"), ("Dishes", "dish"),
        ("potatoes", "potato"), ("shook", "shake"), ("sawed", "saw"), ("sat", "sit"), ("people", "person"),
        ("playing", "play"), ("fixed", "fix"), ("feet", "foot"), ("bus's", "bus"), ("buses", "bus"),
    ],
)  # fmt: skip
def test_forms_of_a_word(word, concept):
    assert is_form(word, concept)


@pytest.mark.parametrize(
    ("word", "concept"),
    [
        ("catalog", "cat"), ("carpet", "car"), ("planed", "plan"), ("staring", "star"), ("doggedly", "dog"),
        ("running", "rung"), ("ballet", "ball"), ("leaf", "leave"), ("reader", "read"),
    ],
)  # fmt: skip
def test_other_words_are_no_forms(word, concept):
    assert not is_form(word, concept)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("The dog runs after the ball.", 1.0),
        ("Two dogs ran past Mr. Hill's balls at 5 p.m. today.", 1.0),
        ("A cat sleeps.", 0.0),
        ("A dog sleeps.", 1 / 3),
        ("A doggedly running ballet dancer slept.", 1 / 3),
        ("“Run to the ball!” the boy called to the dog.", 1.0),
        ("", 0.0),
    ],
)
def test_share_of_words_used(text, share):
    assert coverage(text, CONCEPTS) == pytest.approx(share)


@pytest.mark.parametrize(
    "text",
    [
        "Use the words dog, ball and run in a short sentence.",
        "This sentence has a dog, a ball and a run.",
        "The dog runs. The ball rolls.",
        "The dog runs\nThe ball rolls",
        "dog, ball, run",
        "Dog, ball, and run: the dog will run to the ball.",
        "- dog, - ball, - run",
        "The nouns are a dog and a ball that run.",
    ],
)
def test_text_about_the_words_is_worth_nothing(text):
    assert coverage(text, CONCEPTS) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "A dog runs after a toy, e.g. a red ball.",
        "Dogs run after toys, i.e. balls.",
        "Dogs run after balls, sticks, etc. in the park.",
        "The dog runs vs. Rex for the ball.",
        "Dogs run with a ball under the U.S. flag.",
        "Bob Jr. runs to the ball with a dog of Bob Sr. at noon.",
        "Dog No. 5 runs to the ball.",
        "On Mt. Fuji a dog runs to a ball.",
        "J. R. Hill runs with George W. Bell, a dog and a ball.",
        "At 5 p.m. Ann runs with a dog and a ball.",
    ],
)
def test_the_dot_of_an_abbreviation_ends_no_sentence(text):
    assert coverage(text, CONCEPTS) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "The dog runs with plan B. He likes the ball.",
        "The dog runs with plan B. Bob likes the ball.",
        "Dog A. Ball B. Run.",
        "He likes Plan B. Dogs run after the ball.",
        "The dog runs at 5 p.m. Bob has the ball.",
        "The dog runs in the U.S. Bob has the ball.",
        "Dogs run after sticks, etc. Balls roll.",
        "The dog runs to Bob Jr. The ball rolls.",
        "The dog runs to the Dr. The ball rolls.",
        "Dogs run vs. The ball rolls.",
        "The dog says No. The ball may run.",
        "The dog runs to Mr. Hill. He has the ball.",
        "The dog runs. the ball rolls.",
    ],
)
def test_two_sentences_are_two_whatever_stands_before_the_dot(text):
    assert coverage(text, CONCEPTS) == 0.0


def test_a_word_in_quotes_or_emphasis_is_mentioned_not_used():
    assert coverage('The "dog" may *run* to the ball.', CONCEPTS) == pytest.approx(1 / 3)


def test_a_word_of_the_task_may_be_used_where_it_is_asked_for():
    assert coverage("The judge reads the sentence.", ["judge", "read", "sentence"]) == 1.0


def test_a_subject_verb_object_run_is_no_list():
    assert coverage("Bakers bake cakes.", ["bake", "baker", "cake"]) == 1.0


def test_every_scene_can_be_covered():
    assert len(SCENES) >= 25
    for nouns, verbs in SCENES.values():
        assert len(nouns.split()) >= 8
        assert len(verbs.split()) >= 6
        for word in nouns.split() + verbs.split():
            assert is_form(word, word)
