"""The rewards of a recipe: which there are, what they return, and what is refused."""

import copy
import json
import sys
import time
from pathlib import Path

import pytest
import torch

from dqo.embedders import load_embedder
from dqo.errors import ModelError, RecipeError, RewardError
from dqo.files.records import Prompt
from dqo.rewards.calling import RecordReward
from dqo.rewards.loading import Entry, import_function, load_reward, read_entries
from dqo.rewards.math_reading import final_answer, read_number
from dqo.rewards.mathematics import MathReward

FILE = Path(__file__).with_name("score_functions.py")


def import_function_of(path):
    return import_function(path, "reward", "prompts, completions, **columns")


def call(name, completions, **columns):
    options, prompts = columns.pop("options", {}), columns.pop("prompts", ["p"] * len(completions))
    return load_reward(Entry(reward=name, **options))(prompts=prompts, completions=completions, **columns)


def test_math_answers():
    reward = MathReward(timeout=2)

    def score(answer, gold="72"):
        return reward(prompts=["p"], completions=[answer], reference=[gold])[0]

    assert [score(a) for a in ("#### 72", "#### $72.00", "\\boxed{72}", "the answer is 72 apples.")] == [1.0] * 4
    assert [score(a) for a in ("#### 73", "72", "", "#### " + "7" * 500, "#### __import__('os').getcwd()")] == [0.0] * 5
    assert score("\\boxed{\\frac{1}{2}}", "0.5") == 1.0
    assert score("#### 1,200", "1200") == 1.0
    assert score("#### 2", ["1", "2"]) == 1.0
    assert [
        score("\\boxed{2}", "2x"),
        score("\\boxed{3i}", "3"),
        score("\\boxed{12}", "1,2"),
        score("\\boxed{2xy}", "2"),
    ] == [0.0] * 4
    assert score("#### 72km") == 1.0
    assert [score(a) for a in ("#### 72 apples/day", "##### 72", "The answer is 6*12 = 72.")] == [1.0] * 3
    assert [score(a) for a in ("#### 72 apples/73 pears", "The answer is 6 = 72.", "#### 71\n#### 72")] == [0.0] * 3
    assert reward.counts() == {"timeouts": 0}
    assert score("\\boxed{9^{9^{9^{9}}}}") == 0.0
    assert reward.counts() == {"timeouts": 1}
    assert score("\\boxed{\\frac{144}{2}}") == 1.0, "a new process must have taken over"
    with pytest.raises(RewardError, match="expected at least one text in `reference` of row 0, got none"):
        score("#### 1", [])


def as_number(text):
    number = read_number(text)
    return number and number.value


def test_numbers_and_final_answers():
    assert as_number("1,000.50") == as_number("$1000.5 dollars") == 1000.5
    assert as_number("3/4") == 0.75
    assert as_number("72 m") == as_number("72%") == 72
    assert as_number("60 km/h") == as_number("60 dollars / hour") == 60
    assert [as_number(text) for text in ("2 m/n", "2 xy/3", "5 dollars/hundred")] == [None] * 3
    assert [as_number(text) for text in ("2x", "2xy", "3i", "1,2", "12,00", "1,000,00")] == [None] * 6
    assert final_answer("x #### 5\nmore").tail == "more"
    assert final_answer("\\boxed{\\frac{1}{2}}.").text == "\\frac{1}{2}"
    assert final_answer("\\boxed{never closed") is None
    assert final_answer("####\nnothing on the line") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Tom must answer 3 questions, so 3*6 = 18. The answer is 18.", "18"),
        ("Students answer 20 questions. Answer: 85", "85"),
        ("the answer = 5", "5"),
        ("#### Step 1: add\n40+32 = 72\n\nThe final answer is \\boxed{72}.", "72"),
        ("#### Solution\n40+32\n#### Answer\n\\boxed{72}", "72"),
        ("#### Answer\n#### 72", "72"),
        ("#### Answer: 72", "72"),
        ("#### **The final answer is 72**", "72"),
        ("so \\boxed{40}\n#### 72", "72"),
        ("#### 40 #### 72 and \\boxed{72}", "40"),
        ("#### Monday", "Monday"),
        ("#### Step 1: Find the cost\n3*24 = 72\n\n#### 72", "72"),
        ("#### Solution\nShe has 72.\n\n#### $72", "$72"),
        ("#### Total #### 72", "72"),
        ("#### Step 1\n#### 71\n#### 72", "71"),
        ("#### 71\n#### Correction\n#### 72", "71"),
        ("#### $\\frac{1}{2}$\n#### 72", "$\\frac{1}{2}$"),
        ("#### Step 1\n#### Step 2", "Step 1"),
        ("##### 72", "72"),
        ("The answer is 5*12 = 60.", "5*12 = 60"),
        ("Answer: $(5 + 7) \\times 5 = 60$", "$(5 + 7) \\times 5 = 60$"),
        ("The answer is 5*12 = 5*10 + 10 = 60", "5*12 = 5*10 + 10 = 60"),
        ("The answer is 5 = 60", "5 = 60"),
        ("The answer is 5*12 = 60 = 61", "5*12 = 60 = 61"),
        ("The answer is -5 = 60", "-5 = 60"),
        ("They answer 20 questions.", None),
    ],
)
def test_prose_and_headings_state_no_answer(text, answer):
    found = final_answer(text)
    assert (found and found.text) == answer


def test_a_statement_behind_a_heading_keeps_the_whole_solution():
    text = "#### Step 1: Find the cost\n3*24 = 72\n\n#### 72"
    found = final_answer(text)
    assert (found.end, found.tail) == (len(text), "")
    assert final_answer("The answer is 6*12 = 72. Or 73?").tail == "Or 73?"


def test_a_run_of_blanks_takes_no_time():
    start = time.process_time()
    for text in ("answer is" + " " * 3000 + "z", "answer is " + "1 + " * 3000, "answer: " + "$" * 3000, "#" * 3000):
        assert final_answer(text) is None or "+" in text
    for text in (
        "<answer>" * 3000,
        "<answer>1" * 3000 + "</answer>" * 3000,
        "answer is 1 " * 3000,
        "\\boxed{1} " * 3000,
        "\\boxed{" * 6000,
        "\n" * 40_000,
    ):
        final_answer(text)
    assert time.process_time() - start < 5, "the cube of 3000 blanks would take minutes"


def test_factors_and_variables_are_no_units():
    words = ("5 million", "3 hundred eggs", "2 pi", "3 i", "2 x", "1 dozen")
    assert [as_number(text) for text in words] == [None] * len(words)
    assert [as_number(f"5 {unit}") for unit in ("km", "L", "h", "millimetres", "pies", "pints of milk")] == [5] * 6
    reward = MathReward(timeout=5)
    for gold, answer in (("2 x", "2 y"), ("3 i", "3"), ("5 million", "5"), ("5", "5 million"), ("2 pi", "2")):
        assert reward(prompts=["p"], completions=[f"\\boxed{{{answer}}}"], reference=[gold]) == [0.0], (gold, answer)


def test_an_answer_that_is_several_formulas_is_its_first():
    reward = MathReward(timeout=5)
    answers = ["\\boxed{1/2$ $3/4}", "#### 40$ $41$ $72", "\\boxed{3/4$ $1/2}", "#### $\\frac{3}{4}$ cup"]
    assert reward(prompts=["p"] * 4, completions=answers, reference=["3/4", "72", "3/4", "0.75"]) == [0, 0, 1, 1]


def test_chrf_by_hand():
    # of "ab" and "abc" the single characters share 2 of 2 and 2 of 3, the pairs 1 of 1 and 1 of 2, no longer sequence
    # is in both; F2 = 5PR / (4P + R) of the mean precision (1) and recall (7/12) over the two orders that "ab" has
    assert call("chrf", ["abc", "", "ab"], reference=["abc", "abc", ["xy", "abc"]]) == pytest.approx(
        [1, 0, 5 * 7 / 12 / (4 + 7 / 12)], abs=1e-6
    )
    with pytest.raises(RewardError, match="at least one text in `reference` of row 1"):
        call("chrf", ["a", "b"], reference=["a", []])


def test_similarity_is_the_cosine_with_the_nearest_reference():
    options = {"encoder": "hashed"}
    embed = load_embedder("hashed")
    a, b, c = embed(["two dogs", "a cat", "two cats"]).double()
    got = call("similarity", ["two cats", "a cat", ""], reference=[["two dogs", "a cat"]] * 3, options=options)
    assert got == pytest.approx([max((c @ a).item(), (c @ b).item()), 1, 0], abs=1e-6)
    assert 0 < got[0] < 1


def test_rouge_by_hand():
    # "the cat" against "the cat sat on": 2 of 2 and 2 of 4 words in order, so F1 = 2 * 1 * .5 / 1.5
    assert call("rouge", ["the cat", "dogs", ""], reference=["the cat sat on"] * 3) == pytest.approx([2 / 3, 0, 0])
    assert call("rouge", ["two dogs"], reference=[["a cat", "two dogs"]]) == [1.0]
    sums = {"measure": "rougeLsum"}
    assert call("rouge", ["B two. A one."], reference=["a one\nb two"], options=sums) == [1.0]
    assert call("rouge", ["B two. A one."], reference=["a one\nb two"]) == [0.5]
    with pytest.raises(RewardError, match="expected at least one text in `reference` of row 1, got none"):
        call("rouge", ["a", "b"], reference=["a", []])


def test_rouge_refuses_references_in_a_script_it_does_not_read():
    assert call("rouge", ["GPT 4", "Müller"], reference=[["Кошка", "GPT 4"], "Müller"]) == [1.0, 1.0]
    assert call("rouge", ["Кошка"], reference=["a cat"]) == [0.0], "a response in another script shares no word"
    with pytest.raises(RewardError, match=r"letters a to z in row 1, got 'Кошка сидит'; use `chrf` or `similarity`"):
        call("rouge", ["Кошка", "Кошка сидит"], reference=["a cat", ["Кошка сидит", "猫坐"]])


@pytest.mark.parametrize("reference", ["2024年,北京有3个奥运场馆。", "модель GPT 4", "!?", "🎉"])
def test_rouge_refuses_references_of_which_it_reads_a_digit_or_an_acronym_only(reference):
    """Whatever shared that digit would be worth 1."""
    with pytest.raises(RewardError, match="expected a `reference` of letters a to z in row 0"):
        call("rouge", ["2024 3"], reference=[reference])


def test_length_does_not_count_words_that_no_space_separates():
    thai, russian = "แมวตัวหนึ่งนั่งอยู่บนเสื่อสีแดง", "кошка сидит на красном коврике"
    assert call("length", [thai, russian, "two words"], options={"min_words": 5}) == [None, 1.0, 0.4]


def test_shape():
    words = ["w " * n for n in (0, 2, 4, 8, 12, 16, 20)]
    expected = [0, 0.5, 1, 1, 0.5, 0, 0]
    assert call("length", words, options={"min_words": 4, "max_words": 8}) == pytest.approx(expected)
    assert call("format", ["<a>\n</a>", "<a>"], options={"pattern": r"\A<a>.*</a>\Z"}) == [1.0, 0.0]
    assert call("ended", ["x", "x", " "], ended=[True, False, True]) == [1.0, 0.0, 0.0]
    with pytest.raises(RecipeError, match="expected a regular expression"):
        call("format", ["x"], options={"pattern": "("})
    with pytest.raises(RewardError, match="missing 1 required keyword-only argument: 'ended'"):
        call("ended", ["x"])


@pytest.mark.parametrize("nothing", ["", " \n\t", "...", "?! ... —", "\u200b", "\u00a0", "“”", "- - -"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("length", {"max_words": 80}),
        ("length", {}),
        ("length", {"min_words": 1}),
        ("format", {"pattern": r"\A[^a-z]*\Z"}),
        ("ended", {}),
        ("rouge", {}),
        ("chrf", {}),
        ("concepts", {}),
        ("math", {}),
    ],
)
def test_a_response_that_says_nothing_is_worth_nothing(name, options, nothing):
    columns = {"reference": ["a b"], "meta": [{"concepts": ["dog"]}], "ended": [True]}
    assert call(name, [nothing], options=options, **columns) == [0.0]


@pytest.mark.parametrize("name", ["rouge", "chrf", "similarity", "math"])
@pytest.mark.parametrize("blank", ["", " ", [], [""], ["", "\n"]])
def test_a_blank_reference_is_none(name, blank):
    options = {"encoder": "hashed"} if name == "similarity" else {}
    with pytest.raises(RewardError, match="`reference` of row 0, got none"):
        call(name, ["#### ."], reference=[blank], options=options)


def test_words_of_any_script_and_symbols_count():
    assert call("length", ["猫", "🙂", "5", "word . . ."], options={"max_words": 1}) == [1.0] * 4
    assert call("ended", ["猫", "🙂"], ended=[True, True]) == [1.0, 1.0]


def test_concepts():
    meta = [{"concepts": ["dog", "run"]}] * 2
    assert call("concepts", ["The dogs ran.", "A cat."], meta=meta) == [1.0, 0.0]
    with pytest.raises(RewardError, match=r"expected a list of words in meta.concepts of every prompt, got None"):
        call("concepts", ["x"], meta=[{}])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"reward": "rogue"}, r"entry 1: reward` must be .*did you mean 'rouge'"),
        ({"reward": "x"}, "reward` must be one of quality, math"),
        ({"weight": 1}, "rewards, entry 1: expected the setting `reward`, got none"),
        ({"reward": "math", "weight": float("nan")}, r"entry 1: `weight` must be a finite number, got nan"),
        ({"reward": "math", "weight": "1"}, "`weight` must be a number, got '1'"),
        ({"reward": "quality", "measure": "x"}, "entry 1: quality has no options, got measure"),
    ],
)
def test_bad_entries(line, said):
    with pytest.raises(RecipeError, match=said):
        read_entries([line])


def test_entries_and_their_options():
    assert read_entries([]) == [Entry(reward="quality")]
    (entry,) = read_entries([{"reward": "length", "max_words": 5, "weight": 2}])
    assert entry == Entry(reward="length", weight=2.0, max_words=5)
    with pytest.raises(RecipeError, match=r"reward 'length': expected a known setting, got .*did you mean 'max_words'"):
        load_reward(Entry(reward="length", max_word=5))
    with pytest.raises(RecipeError, match="reward 'judge': expected the setting `model`, got none"):
        load_reward(Entry(reward="judge", base_url="http://x/v1"))


def test_options_of_a_function_are_arguments_that_it_names(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "def long(prompts, completions, least, **columns):\n    return [len(c) >= least for c in completions]\n"
    )
    (entry,) = read_entries([{"reward": f"{file}:long", "least": 3}])
    reward = load_reward(entry)
    assert (reward.__name__, reward(prompts=["p"] * 2, completions=["ab", "abc"])) == ("long", [0.0, 1.0])
    with pytest.raises(
        RecipeError, match=r"got \(prompts, completions, least, .* argument 'lest'\); correct the options"
    ):
        load_reward(Entry(reward=f"{file}:long", least=3, lest=3))
    with pytest.raises(RecipeError, match=r"multiple values for keyword argument 'prompts'"):
        load_reward(Entry(reward=f"{file}:long", least=3, prompts=3))
    file.write_text(
        "class Late:\n    def __init__(self): self.counts = dict\n"
        "    async def __call__(self, completions, least, **_): return [len(c) >= least for c in completions]\n"
        "late = Late()\n" + file.read_text()
    )
    late = load_reward(Entry(reward=f"{file}:late", least=3))
    columns = {"completions": ["ab", "abc"], "completion_ids": [[1], [1]], "row": [0, 0]}
    late_reward = RecordReward(late, [Prompt("p", "Q", [], {})], [1], "late")
    assert late_reward(prompts=["p"] * 2, **columns) == [0.0, 1.0], "asynchronous ones too"
    assert late.fn.counts is dict
    with pytest.raises(RecipeError, match=r"missing a required argument: 'least'"):
        load_reward(Entry(reward=f"{file}:long"))
    file.write_text("def bare(prompts, completions): return [0.0]\n" + file.read_text())
    with pytest.raises(RecipeError, match=r"unexpected keyword argument 'reference'"):
        load_reward(Entry(reward=f"{file}:bare"))


def test_a_record_feeds_the_reward_its_columns():
    other, prompt = Prompt("p-0", "?", [], {}), Prompt("p-1", "Q", ["gold"], {"id": "p-1", "level": 3})
    seen, logged = {}, {}

    def reward(prompts, completions, **columns):
        seen.update(columns, prompts=prompts, completions=completions)
        return [1.0, None]

    reward.counts = lambda: {"odd": 2}
    reward.__name__ = "mine"
    from dqo.rewards import CheckedReward

    values = RecordReward(CheckedReward(reward), [other, prompt], [9], "mine")(
        prompts=["other"] * 2,
        completions=["a", [{"role": "assistant", "content": "b"}]],
        completion_ids=[[1, 9], [1, 2]],
        row=[1, 1],
        log_metric=logged.__setitem__,
    )
    assert values == [1.0, None]
    assert (seen["prompts"], seen["completions"], seen["ended"]) == (["Q", "Q"], ["a", "b"], [True, False])
    assert seen["record"] == [prompt, prompt]
    assert (seen["reference"][0], seen["meta"][0]["level"]) == (["gold"], 3)
    assert logged == {"rewards/mine/odd": 2.0, "responses/truncated": 0.5, "responses/empty": 0.0}


def classifier(folder, tokenizer, labels, template=True, pad=0):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, pad_token_id=pad, eos_token_id=1, num_labels=labels,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if not template:
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text())
        settings.pop("chat_template", None)
        path.write_text(json.dumps(settings))
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    return str(folder)


def test_reward_model_scores_do_not_depend_on_the_batch(tiny_tokenizer, tmp_path):
    model = classifier(tmp_path / "rm", tiny_tokenizer, 1)
    texts = ["the dog runs", "a cat", "the old house near the river and the tree", ""]
    one_by_one = [call("reward_model", [text], options={"model": model})[0] for text in texts[:2]]
    together = call("reward_model", texts, options={"model": model, "batch_size": 3})
    assert together[:2] == pytest.approx(one_by_one, abs=1e-5)
    assert len(set(together)) == 4, "different texts must get different scores for the line above to say something"


def test_the_reward_model_reads_the_conversation_as_its_template_writes_it(tiny_tokenizer, tmp_path):
    from transformers import LlamaForSequenceClassification

    folder = classifier(tmp_path / "rm", tiny_tokenizer, 1)
    model = LlamaForSequenceClassification.from_pretrained(folder)
    ids = tiny_tokenizer("user the dog assistant a cat runs", add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model(ids).logits.item()
        bare = model(ids[:, 1:]).logits.item()
    assert abs(expected - bare) > 1e-4, "a template that makes no difference would make the next lines vacuous"
    assert call("reward_model", ["a cat runs"], prompts=["the dog"], options={"model": folder}) == pytest.approx(
        [expected], abs=1e-5
    )
    chat = [{"role": "user", "content": "the dog"}]
    reply = [{"role": "assistant", "content": "a cat runs"}]
    assert call("reward_model", [reply], prompts=[chat], options={"model": folder}) == pytest.approx(
        [expected], abs=1e-5
    )


@pytest.mark.parametrize(
    ("of_model", "of_tokenizer", "at_once"),
    [(None, None, 1), (None, "<eos>", 1), (None, "<pad>", 3), (0, None, 3), (1, "<eos>", 3), (1, "<pad>", 3),
     (-1, None, 1)],
)  # fmt: skip
def test_a_batch_scores_the_token_that_the_model_itself_scores(
    tiny_tokenizer, tmp_path, of_model, of_tokenizer, at_once
):
    """Of a conversation that ends in eos, whatever model (0 <pad>, 1 <eos>) and tokenizer pad with."""
    from transformers import LlamaForSequenceClassification

    from dqo.rewards.reward_model import RewardModel

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <eos> {% endfor %}"
    tokenizer.pad_token = of_tokenizer
    folder = classifier(tmp_path / "rm", tokenizer, 1, pad=of_model)
    texts = ["the dog runs", "a cat", "the old house near the river"]
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    rows = [tiny_tokenizer(f"user the bird <eos> assistant {text} <eos>", return_tensors="pt") for text in texts]
    with torch.no_grad():
        alone = [model(row.input_ids).logits.item() for row in rows]
        places = [model.score(model.model(row.input_ids).last_hidden_state)[0, :, 0].tolist() for row in rows]
    last = -2 if of_model == 1 else -1
    assert alone == pytest.approx([place[last] for place in places], abs=1e-5), "what this test takes for granted"
    assert min(abs(place[-1] - place[-2]) for place in places) > 1e-3
    reward = RewardModel(folder, device="cpu", batch_size=3)
    assert reward(prompts=["the bird"] * 3, completions=texts) == pytest.approx(alone, abs=1e-5)
    assert (reward._batch_size, reward.counts()) == (at_once, {"shortened": 0})


def test_a_long_conversation_keeps_its_end_and_is_counted(tiny_tokenizer, tmp_path):
    from dqo.rewards.reward_model import RewardModel

    reward = RewardModel(classifier(tmp_path / "rm", tiny_tokenizer, 1))
    ends = ["the dog " * 40 + end for end in ("runs", "sings")]
    scores = reward(prompts=["a"] * 2, completions=ends)
    assert scores[0] != scores[1]
    assert reward.counts() == {"shortened": 2}
    pair = RewardModel(classifier(tmp_path / "pair", tiny_tokenizer, 1, template=False))
    assert pair(prompts=["the dog"], completions=["a cat"]) != pair(prompts=["a bird"], completions=["a cat"])


def test_models_that_are_no_reward_models_are_refused(tiny_tokenizer, tiny_policy_folder, tmp_path):
    two = classifier(tmp_path / "two", tiny_tokenizer, 2)
    with pytest.raises(ModelError, match=r"with one label, whose score is the reward, got 2 labels; use a model"):
        call("reward_model", ["x"], options={"model": two})
    with pytest.raises(ModelError, match=r"expected a sequence classifier with one label, .* got LlamaForCausalLM"):
        call("reward_model", ["x"], options={"model": str(tiny_policy_folder)})
    with pytest.raises(ModelError, match="expected 'no/such/place' to be a folder written by save_pretrained"):
        call("reward_model", ["x"], options={"model": "no/such/place"})


def test_by_module_and_by_file():
    assert import_function_of("os.path.join")("a", "b") == "a/b"
    assert import_function_of(f"{FILE}:by_length").__name__ == "by_length"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("by_length", "expected 'pkg.module.function' or 'path/to/file.py:function', got ValueError"),
        (f"{FILE}:", r"expected a function of that module, got ''; name one there that takes \(prompts, completions, "),
        (str(FILE), "expected 'pkg.module.function' or"),
        ("no_such_package.rewards.fn", "got ModuleNotFoundError .*'no_such_package'"),
        ("missing.py:fn", "got FileNotFoundError .*'/.*/missing.py'"),
        (f"{FILE}:zzz", "expected a function of that module, got 'zzz'; name one there"),
        (f"{FILE}:bylength", r"expected a function of that module, got 'bylength'; did you mean 'by_length'\?"),
        ("os.path.jion", r"expected a function of that module, got 'jion'; did you mean 'join'\?"),
        (f"{FILE}:NOT_A_FUNCTION", "function of that module, got 'NOT_A_FUNCTION'; name one"),
    ],
)
def test_mistakes_name_the_path(path, message):
    with pytest.raises(RecipeError, match=message) as caught:
        import_function_of(path)
    assert f"reward {path!r}" in str(caught.value)
    assert "dqo_user_" not in str(caught.value)


def test_a_module_that_fails_to_import(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(RecipeError, match="got ZeroDivisionError \\(division by zero\\)"):
        import_function_of(f"{tmp_path}/broken.py:fn")


def test_a_module_of_the_current_folder_is_found_by_the_installed_script_too(tmp_path, monkeypatch):
    (tmp_path / "own_scores").mkdir()
    (tmp_path / "own_scores" / "length.py").write_text("def fn():\n    from own_helper import ONE\n    return ONE\n")
    (tmp_path / "own_helper.py").write_text("ONE = 1\n")
    (tmp_path / "json.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])  # the script `dqo` has no "" there
    for name in ("own_scores", "own_scores.length", "own_helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    function = import_function_of("own_scores.length.fn")
    assert function() == 1, "what it imports when called is found as well"
    assert sys.path[-1] == str(tmp_path), "last, so that json.py there hides nothing"
    import_function_of("own_scores.length.fn")
    assert sys.path.count(str(tmp_path)) == 1


def test_a_file_with_dataclasses(tmp_path):
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    (tmp_path / "graded.py").write_text(
        source + "@dataclass\nclass Grade:\n    value: float\ndef fn(): return Grade(1.0).value\n"
    )
    assert import_function_of(f"{tmp_path}/graded.py:fn")() == 1.0
