import time

import pytest

from dqo.rewards.sentences import coverage, is_form, verbs_in
from dqo.tasks.concepts import SCENES

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
        "Here is a sentence about a dog that runs after a ball.",
        "Sure, here's a sentence with a dog that runs for a ball.",
        "I will write a sentence about a dog who runs to the ball.",
        "Sentence: The dog runs after the ball.",
        "A sentence using dog and ball and run.",
        "A short sentence with a dog, a ball that runs.",
        "The words dog, ball and run can describe a scene.",
        "The dog runs after the ball in one sentence.",
        "The sentence uses a dog, a ball and a run.",
        "The prompt asks for a dog that runs to a ball.",
        "Dog and ball and run are words.",
        "The dog, the ball and the run are the words to use.",
        "All of these words, dog, ball and run, describe a scene.",
        "Write a sentence about a dog that runs with a ball.",
        "Make a sentence where the dog runs after the ball.",
        "Using these words, the dog runs after the ball.",
        "The given words show a dog that runs after a ball.",
        "The word dog and the word ball run together.",
        "Try to fit a dog, a ball and a run in a phrase.",
        "The following sentence has a dog that runs to a ball.",
        "We can make a sentence where a dog runs to a ball.",
        "You could write a phrase such as the dog runs to the ball.",
        "The vocabulary includes a dog, a ball and a run.",
        "A sentence about a dog that runs to a ball.",
        "The verb is run and the dog has a ball.",
        "Create a paragraph about a dog, a ball and a run.",
        "The concept of a dog and a ball that run is an everyday scene.",
    ],
)
def test_other_ways_to_speak_about_the_words_are_worth_nothing_either(text):
    assert coverage(text, CONCEPTS) == 0.0


@pytest.mark.parametrize(
    ("text", "concepts"),
    [
        ("He gave his word to the nurse.", "give nurse"),
        ("The judge gave the man a long sentence.", "judge man"),
        ("A teacher writes a word on the board.", "board teacher write"),
        ("A teacher writes a verb on the board.", "board teacher write"),
        ("The boy reads a sentence from the book to his dog.", "book dog read"),
        ("The nurse spoke kind words to the man.", "nurse speak"),
        ("He listened to the words of the nurse.", "listen nurse"),
        ("The crowd sings the words of the song.", "crowd sing song"),
        ("She was prompt to serve the ball.", "ball serve"),
        ("The man served his sentence in jail.", "jail man serve"),
        ("The band plays a catchy phrase on the guitar.", "band guitar play"),
        ("There are words on the wall of the room.", "room wall"),
        ("The children learn new words in class.", "child class learn"),
        ("He said three words to the nurse.", "nurse say"),
        ("A woman types a paragraph on her laptop.", "laptop type woman"),
        ("The artist shows a concept car to the crowd.", "car crowd show"),
        ("The actor waits for a prompt on the stage.", "actor stage wait"),
        ("The student looks up a word in a book.", "book look student"),
        ("In other words, the dog runs to the ball.", "ball dog run"),
        ("The words on the sign tell the dog owner to run.", "dog run sign"),
        ("She crosses out each word in the letter with a pen.", "cross letter pen"),
        ("The teacher makes the class repeat the phrase.", "class repeat teacher"),
        ("He has a word with the coach before the game.", "coach game"),
        ("A word game keeps the kids at the table.", "kid table"),
        ("The singer forgot the words and laughed on stage.", "laugh singer stage"),
        ("The lawyer reads the sentence to the crowd.", "crowd lawyer read"),
        ("The judge reads this sentence to the man.", "judge man read"),
        ("Words of thanks are read at the table.", "read table"),
        ("A man of few words walks his dog.", "dog man walk"),
        ("Words that hurt made the boy run home.", "boy home run"),
        ("With these words, he threw the ball to the dog.", "ball dog throw"),
    ],
)
def test_a_scene_in_which_words_are_spoken_or_written_is_worth_what_it_is(text, concepts):
    assert coverage(text, concepts.split()) == 1.0


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


def test_a_run_of_marks_takes_no_time():
    start = time.process_time()
    for mark in (".", "*", "```", "“", "…"):
        assert coverage(f"A dog ran after the ball{mark * 20_000}", ["dog", "run", "ball"]) == 1.0
    assert time.process_time() - start < 3, "with the square of the length each mark takes longer than that"


@pytest.mark.parametrize(
    ("text", "concepts", "verb", "share"),
    [
        ("She drives her scooter down the street.", "drive scooter street", "drive", 1.0),
        ("A person went on a drive with a scooter on the street.", "drive scooter street", "drive", 2 / 3),
        ("The nurse will pierce his ear with a needle.", "ear needle pierce", "pierce", 1.0),
        ("An ear and a needle lay on the pierce of the table.", "ear needle pierce", "pierce", 2 / 3),
        ("The dancers were dancing on the stage.", "dance dancer stage", "dance", 1.0),
        ("The dance of the dancer on the stage was long.", "dance dancer stage", "dance", 2 / 3),
        ("A dog runs.", "dog run", "run", 1.0),
        ("On his run he runs after the dog.", "dog run", "run", 1.0),
        ("They took a walk.", "take walk", "take", 1.0),
    ],
)
def test_a_verb_used_as_a_noun_does_not_count(text, concepts, verb, share):
    assert coverage(text, concepts.split(), [verb]) == pytest.approx(share)
    assert coverage(text, concepts.split()) == 1.0, "either will do where no verb is asked for"


def test_verbs_are_what_most_of_the_references_use_so():
    references = ["He took a walk by the river.", "She walks to the river.", "Dogs walk along the river bank."]
    assert verbs_in(references, ["river", "walk", "zebra"]) == ["walk"]
    assert verbs_in(references[:1], ["river", "walk"]) == []
