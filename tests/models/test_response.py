"""One text of a response: hand-worked texts of every form of a reasoning trace, and responses read from tokens."""

import pickle
import time

import pytest

from dqo.errors import RecipeError
from dqo.models.chat import Response, ResponseReader, TraceMarkers, completion_text, prompt_text

GPT_OSS = "<|channel|>analysis<|message|>The user asks.<|end|><|start|>assistant<|channel|>final<|message|>Paris."
FENCED = "Write:\n```\n<think>\nreasoning\n</think>\n```\nThat is all."


@pytest.mark.parametrize(
    ("sampled", "text"),
    [
        ("<think>2 + 2 = 5?</think>4", "4"),
        ("<think>\n2 + 2\n</think>\n\n4", "4"),
        ("\n <THINK>x</THINK> 4", "4"),
        ("<think>\n\n</think>\n\n4", "4"),
        ("2 + 2 is 4\n</think>\n\n4", "4"),
        ("2 + 2 is 4</think>4", "4"),
        ("<think>one</think>a <think>two</think>b", "a b"),
        ("<think>one</think>a\n<think>two</think>\nb", "a\n\nb"),
        ("<think>one</think></think>\nb", "b"),
        ("Sure.\n<think>one</think>\nb", "Sure.\n\nb"),
        ("<think>I end with `</think>` later.</think>4", "4"),
        ("<think>```python\nx = 1</think>4", "4"),
        ("<thinking>x</thinking>4", "4"),
        ("<thought>x</thought>4", "4"),
        ("<reasoning>\nx\n</reasoning>\n<answer>4</answer>", "<answer>4</answer>"),
        ("[THINK]x[/THINK]4", "4"),
        ("◁think▷x◁/think▷4", "4"),
        ("<seed:think>x</seed:think>4", "4"),
        (GPT_OSS, "Paris."),
    ],
)
def test_a_closed_trace_leaves_what_stands_outside(sampled, text):
    found = completion_text(sampled)
    assert found == text
    assert found.sampled == sampled
    assert not found.unclosed


@pytest.mark.parametrize(
    ("sampled", "text"), [("<think>2 + 2", ""), ("<think>", ""), ("<think>one</think>a\n<think>two", "a\n")]
)
def test_a_trace_that_is_never_closed_leaves_nothing_of_itself(sampled, text):
    found = completion_text(sampled)
    assert (found, found.traced, found.unclosed) == (text, True, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " plain text \n",
        "Use <think> before you answer.",
        "The tags <think> and </think> hold a trace.",
        "The model ends its trace with </think>, then answers.",
        'Write "<think>" and "</think>".',
        "It begins with `</think>` here",
        "I think </thinker> is no marker",
        FENCED,
    ],
)
def test_a_mention_of_a_marker_is_no_trace(text):
    found = completion_text(text)
    assert (found, found.traced, found.unclosed) == (text, False, False)


def test_a_trace_that_the_prompt_opened():
    markers = TraceMarkers()
    assert markers.cut("reasoning about <think> tags</think>4", opened=True)[:3] == ("4", True, False)
    assert markers.cut("cut off in the middle", opened=True)[:3] == ("", True, True)
    assert markers.cut("</think>4", opened=True)[:3] == ("4", False, False)


def test_markers_of_one_s_own_and_none():
    text = "<plan>x</plan><think>y</think>4"
    assert completion_text(text, TraceMarkers.parse("off")) == text
    assert completion_text(text, TraceMarkers.parse("<plan>...</plan>")) == "<think>y</think>4"
    assert completion_text(text, TraceMarkers.parse("default, <plan>...</plan>")) == "4"
    words = TraceMarkers.parse("Here is my thought process:...Here is my response:")
    assert completion_text("Here is my thought process: x\nHere is my response: 4", words) == "4"
    for wrong in ("<plan>", "<plan>...", "...", "on", "<a>...<a>", ""):
        with pytest.raises(RecipeError, match="trace_markers"):
            TraceMarkers.parse(wrong)


def test_every_turn_of_the_assistant_counts_and_nobody_else_s():
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "It is 4."}]
    talk = [
        {"role": "assistant", "content": "<think>I need a tool</think>Let me add.", "tool_calls": [call]},
        {"role": "tool", "name": "add", "content": "TOOL OUTPUT"},
        {"role": "user", "content": "and now?"},
        {"role": "assistant", "content": parts},
    ]
    written = 'Let me add.\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call>\nIt is 4.'
    assert completion_text(talk) == written
    assert completion_text(talk).traced
    as_text = {"function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
    assert completion_text([talk[0] | {"tool_calls": [as_text]}, *talk[1:]]) == written
    assert completion_text([]) == completion_text([{"role": "tool", "content": "TOOL OUTPUT"}]) == ""


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_a_trace_that_a_parser_has_taken_out_counts(field):
    found = completion_text([{"role": "assistant", field: "2 + 2", "content": "4"}])
    assert (found, found.traced, found.unclosed) == ("4", True, False)
    found = completion_text([{"role": "assistant", field: "2 + 2", "content": None}])
    assert (found, found.traced, found.unclosed) == ("", True, True)


def test_a_response_is_read_once():
    found = completion_text("<think>x</think>It says <think>y</think>.\n</think>z", TraceMarkers.parse("off"))
    assert completion_text(found) is found
    copy = pickle.loads(pickle.dumps(Response("a", traced=True, sampled="<think>b</think>a")))
    assert (copy, copy.traced, copy.unclosed, copy.sampled) == ("a", True, False, "<think>b</think>a")


def test_a_judge_reads_a_prompt_of_several_turns_whole():
    asked = {"role": "user", "content": "Name a city."}
    assert prompt_text("Name a city.") == prompt_text([{"role": "system", "content": "Be brief."}, asked])
    talk = [asked, {"role": "assistant", "content": "Rome"}, {"role": "user", "content": "Another."}]
    assert prompt_text(talk) == "user: Name a city.\n\nassistant: Rome\n\nuser: Another."


@pytest.fixture(scope="module")
def tokenizer():
    """Words, with end and turn markers that are special tokens, and [THINK] among them, as Mistral's are."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "2+2", "so", "4", "add", "OUT", "assistant", "<think>", "</think>", "5"]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens([AddedToken(token) for token in ("[THINK]", "[/THINK]", "<turn>", "<eos>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )


def ids(tokenizer, text):
    return tokenizer.convert_tokens_to_ids(text.split())


def read(tokenizer, prompt, text, mask=None, markers="default"):
    return ResponseReader(tokenizer, TraceMarkers.parse(markers))(ids(tokenizer, prompt), ids(tokenizer, text), mask)


def test_markers_that_are_special_tokens_are_seen(tokenizer):
    sampled = "[THINK] 2+2 so [/THINK] 4 <eos>"
    assert tokenizer.decode(ids(tokenizer, sampled), skip_special_tokens=True) == "2+2 so 4"
    found = read(tokenizer, "<turn> assistant", sampled)
    assert (found, found.traced, found.unclosed) == ("4", True, False)
    assert found.sampled.split() == ["[THINK]", "2+2", "so", "[/THINK]", "4"]
    found = read(tokenizer, "<turn> assistant", "[THINK] 2+2 so")
    assert (found, found.unclosed) == ("", True)
    assert read(tokenizer, "<turn> assistant", sampled, markers="off") == "2+2 so 4"


@pytest.mark.parametrize("opening", ["<think>", "[THINK]"])
def test_a_trace_opened_in_the_prompt_is_known_by_its_tokens(tokenizer, opening):
    closing = {"<think>": "</think>", "[THINK]": "[/THINK]"}[opening]
    prompt = f"<pad> <turn> so <turn> assistant {opening}"
    assert read(tokenizer, prompt, f"2+2 {closing} 4 <eos>") == "4"
    found = read(tokenizer, prompt, "2+2 so 4")
    assert (found, found.traced, found.unclosed) == ("", True, True)
    closed = read(tokenizer, f"{prompt} {closing}", "2+2 so 4")
    assert (closed, closed.traced) == ("2+2 so 4", False)
    asked = read(tokenizer, f"<turn> so {opening} <turn> assistant", "2+2 so 4")
    assert (asked, asked.traced) == ("2+2 so 4", False), "a user's words open nothing"


def test_what_tools_wrote_between_the_turns_is_left_out(tokenizer):
    text = "<think> 2+2 </think> add <turn> OUT <turn> assistant <think> 5 </think> 4 <eos>"
    mask = [1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    found = read(tokenizer, "<turn> assistant", text, mask)
    assert (found, found.unclosed) == ("add\n4", False)
    cut_off = read(tokenizer, "<turn> assistant", text.partition("</think> 4")[0], mask[:10])
    assert (cut_off, cut_off.unclosed) == ("add", True), "the tool's answer was followed by an open trace"


def test_many_markers_take_no_time():
    start = time.process_time()
    assert TraceMarkers().cut("a</think> b" + " x <think>" * 20_000).traced
    assert time.process_time() - start < 3, "with the square of their number it takes a minute"
