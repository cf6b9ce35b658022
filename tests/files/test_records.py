"""Data files: what is read is what was written, and every complaint names file, line and field."""

import errno
import json
import pickle
import subprocess
import sys
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqo.errors import DataError
from dqo.files.records import (
    Conversation,
    Group,
    append_jsonl,
    read_groups,
    read_prompts,
    write_groups,
    write_json,
    write_text,
)

GROUP = {"id": "a", "prompt": "Say.", "responses": ["x", ""], "finish": ["eos", "length"], "rewards": [1, 0.5]}


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_prompt_fields_and_defaults(tmp_path):
    path = lines(
        tmp_path / "train.jsonl", {"prompt": "One?", "reference": ["1"], "meta": {"id": "q7"}}, {"prompt": "Two?"}
    )
    first, second = read_prompts(path)
    assert (first.id, first.reference, first.meta) == ("q7", ["1"], {"id": "q7"})
    assert (second.id, second.prompt, second.reference, second.meta) == ("train-2", "Two?", [], {})


TALK = [
    {"role": "user", "content": "Name a planet."}, {"role": "assistant", "content": "Mars"},
    {"role": "user", "content": "Name a bird."},
]  # fmt: skip


def test_a_conversation_is_a_transcript_and_keeps_its_messages(tmp_path):
    path = lines(tmp_path / "p.jsonl", {"prompt": TALK}, {"prompt": TALK[2:]})
    first, second = (prompt.prompt for prompt in read_prompts(path))
    assert first == "user: Name a planet.\n\nassistant: Mars\n\nuser: Name a bird."
    assert first.messages == TALK
    assert pickle.loads(pickle.dumps(first)).messages == TALK
    assert (second, type(second)) == ("Name a bird.", str), "one message of the user's is plain text"
    write_groups(tmp_path / "g.jsonl", [Group("a", Conversation(TALK), [], ["owl"], ["eos"], None, {})])
    assert json.loads((tmp_path / "g.jsonl").read_text())["prompt"] == TALK
    assert read_groups(tmp_path / "g.jsonl")[0].prompt.messages == TALK


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (TALK[:2], "messages of which the last is the user's, got"),
        ([], r"messages of which the last is the user's, got \[\]"),
        ([{"role": "tool", "content": "x"}], "role"),
        ([{"role": "user", "content": " "}], "content"),
        ([{"role": "user", "content": "x", "name": "y"}], r"got 'prompt\.0\.name'; remove it\."),
    ],
)
def test_messages_that_nobody_can_answer_are_refused(tmp_path, talk, said):
    with pytest.raises(DataError, match=said) as refused:
        read_prompts(lines(tmp_path / "p.jsonl", {"prompt": talk}))
    assert "p.jsonl, line 1" in str(refused.value)


def test_line_separators_inside_strings_do_not_split_records(tmp_path):
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf\rg"
    path = tmp_path / "p.jsonl"
    path.write_bytes(json.dumps({"prompt": odd}, ensure_ascii=False).encode() + b"\r\n\n" + b'{"prompt": "next"}')
    assert [prompt.prompt for prompt in read_prompts(path)] == [odd, "next"]
    assert read_prompts(path)[1].id == "p-3", "blank lines still count as lines"


def test_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "hello"}\n')
    assert read_prompts(path)[0].prompt == "hello"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
groups = st.builds(
    lambda i, p, ref, rows, scored, meta: Group(
        f"g{i}", "p" + p, ref, [r for r, _, _ in rows], [f for _, f, _ in rows],
        [x for _, _, x in rows] if scored else None, meta,
    ),
    st.integers(), texts, st.one_of(texts, st.lists(texts, max_size=2)),
    st.lists(st.tuples(texts, st.sampled_from(["eos", "length"]), st.floats(-1e9, 1e9)), min_size=1, max_size=4),
    st.booleans(), st.dictionaries(texts, texts, max_size=2),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(groups, min_size=1, max_size=4, unique_by=lambda group: group.id))
def test_groups_survive_the_round_trip(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("round") / "deep" / "groups.jsonl"
    write_groups(path, written)
    assert read_groups(path) == written
    assert [entry.name for entry in path.parent.iterdir()] == ["groups.jsonl"], "no temporary file is left"


def test_appending_gives_the_same_file_as_writing(tmp_path):
    group = Group("ü", "p", [], ["a\u2028b"], ["eos"], None, {})
    write_groups(tmp_path / "whole.jsonl", [group, Group("b", "p", "r", ["c"], ["eos"], [1.0], {})])
    for one in read_groups(tmp_path / "whole.jsonl"):
        append_jsonl(tmp_path / "appended.jsonl", vars(one))
    assert (tmp_path / "appended.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": 3}, r"`prompt` must be text that is not blank, or messages .*, got 3; change"),
        ({"prompt": " \n"}, r"`prompt` must be text that is not blank"),
        ({"prompt": "\ud800"}, r"expected one JSON object, got .*ud800.* \(Invalid JSON: "),
        ({"responses": ["x", "\udfff"]}, r"expected one JSON object, got .* \(Invalid JSON: "),
        ({"meta": {"x": "\ud800"}}, r"expected one JSON object, got .* \(Invalid JSON: "),
        ({"reference": [1]}, r"`reference` must be text, got \[1\]"),
        ({"meta": []}, r"`meta` must be a mapping, got \[\]"),
        ({"id": ""}, r"`id` must be text that is not blank, got ''"),
        ({"id": "first"}, r"expected a unique id, got 'first', which an earlier line has too"),
        ({"responses": []}, r"`responses` must be a list of at least 1, got \[\]"),
        ({"responses": ["x", None]}, r"`responses.1` must be text, got None"),
        ({"finish": ["eos"]}, r"`finish` must be 2 of \"eos\" or \"length\", one per response, got \['eos'\]"),
        ({"finish": ["eos", ""]}, r"`finish` must be 2 of \"eos\" or \"length\""),
        ({"id": True}, r"`id` must be text, got True"),
        ({"rewards": [1.0]}, r"`rewards` must be null or 2 numbers, one per response, got \[1.0\]"),
        ({"rewards": [True, 0]}, r"`rewards.0` must be a number, got True"),
        ({"rewards": [10**400, 0]}, r"`rewards.0` must be a number, got 1000"),
        ({"rewards": "1 0"}, r"`rewards` must be a list"),
        ({"rewards": [1, float("nan")]}, r"expected finite numbers in JSON, got another"),
        ({"rewards": [1, float("-inf")]}, r"expected finite numbers in JSON, got another"),
        ({"reward": [1, 1]}, r"expected a known field, got 'reward'; did you mean 'rewards'\?"),
    ],
)
def test_a_bad_group_names_line_and_field(tmp_path, change, message):
    path = lines(tmp_path / "groups.jsonl", GROUP | {"id": "first"}, GROUP | change)
    with pytest.raises(DataError, match=rf"groups\.jsonl, line 2: {message}"):
        read_groups(path)


@pytest.mark.parametrize("field", ["id", "prompt", "responses"])
def test_a_missing_field_is_named(tmp_path, field):
    path = lines(tmp_path / "g.jsonl", {key: value for key, value in GROUP.items() if key != field})
    with pytest.raises(DataError, match=rf"g\.jsonl, line 1: expected the field `{field}`, got none"):
        read_groups(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"p\.jsonl: expected at least one JSON line, got an empty file\."),
        (b"\n \n", r"p\.jsonl: expected at least one JSON line"),
        (b'{"prompt": "caf\xe9"}', r"p\.jsonl: expected UTF-8, got byte 0xe9 at offset 15; save the file as UTF-8\."),
        (b'{"prompt": "a"}\n{"prompt": ', r"p\.jsonl, line 2: expected one JSON object, got .* \(Invalid JSON: EOF"),
        (
            b'["prompt"]\n',
            r'p\.jsonl, line 1: expected one JSON object, got \'\["prompt"\]\' \(Input should be an object\)\.',
        ),
        (b'{"prompt": "a", "meta": {"x": 1e999}}', r"line 1: expected finite numbers in JSON, got another"),
        (b'{"prompt": "a", "meta": {"id": 7}}', r"line 1: `meta.id` must be text that is not empty, got 7"),
        (b'{"prompt": "a", "id": "b"}', r"known field, got 'id'; choose one of prompt, reference, meta"),
        (
            b'{"prompt": "a", "meta": {"x": %s}}' % (b"[" * 980 + b"]" * 980),
            r"line 1: expected one JSON object, got .*recursion limit",
        ),
        (b'{"prompt": "a", "answer": "b"}', r"known field, got 'answer'; choose one of prompt, reference, meta"),
        (b"[" * 100_000, r"p\.jsonl, line 1: expected one JSON object, got .*recursion limit"),
    ],
)
def test_a_bad_prompt_file_is_refused(tmp_path, content, message):
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompts(path)


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: expected a readable JSON-lines file, got No such file"):
        read_prompts(tmp_path / "none.jsonl")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(DataError, match=r"metrics\.json: expected finite numbers in JSON"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(DataError, match=r"expected text to write as UTF-8, got the lone surrogate '\\ud800'"):
        write_text(path, "\ud800")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


class FullDisk:
    """A file that takes so many more bytes of all writes together, then a part of one, then nothing."""

    def __init__(self, room):
        self.room = room

    def write(self, file, data):
        data = bytes(data)
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken, self.room = data[: self.room], max(0, self.room - len(data))
        return FileIO.write(file, taken)


@pytest.mark.parametrize("room", [0, 1, 5, 20, 21])
def test_a_full_disk_is_an_error_and_glues_nothing(tmp_path, monkeypatch, room):
    path, disk = tmp_path / "log.jsonl", FullDisk(room)
    append_jsonl(path, {"step": 1})
    full = type("Full", (FileIO,), {"write": lambda file, data: disk.write(file, data)})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode, buffering: full(self, mode))
        with pytest.raises(DataError, match=r"log\.jsonl: writing failed \(No space left on device\); free space"):
            append_jsonl(path, {"step": 2, "quality": 0.25})
    append_jsonl(path, {"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


@pytest.mark.parametrize("torn", ['{"step": 2, "qual', '{"step": ', "{", '{"a": "\\ud8', '{"step": 2}'])
@pytest.mark.parametrize("before", ["", '{"step": 1}\n'])
def test_a_line_that_a_kill_has_torn_is_cut_off_by_the_next(tmp_path, before, torn):
    path = tmp_path / "log.jsonl"
    path.write_text(before + torn)
    append_jsonl(path, {"step": 3})
    assert path.read_text() == before + '{"step": 3}\n'


def test_processes_that_append_to_one_file_leave_whole_lines(tmp_path):
    code = "import sys; from dqo.files.records import append_jsonl\n"
    code += "for i in range(200): append_jsonl(sys.argv[1], {'i': i, 'text': 'x' * (97 * i % 9000)})"
    path = tmp_path / "shared.jsonl"
    started = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [process.wait(timeout=300) for process in started] == [0, 0, 0]
    assert sorted(json.loads(line)["i"] for line in path.read_text().splitlines()) == sorted([*range(200)] * 3)
