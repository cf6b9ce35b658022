"""What a model, a data set, an endpoint or a checkpoint sends is read and never run, and a key stays where it is."""

import ast
import json
from pathlib import Path

import pytest
import transformers

import dqo
from dqo.errors import EncoderError, EndpointError, ModelError
from dqo.files.records import Group
from dqo.models.endpoint import Endpoint, checked_url

SRC = Path(dqo.__file__).parent
KEY = "sk-fake-0123456789abcdef"


def calls(source: str):
    """(dotted name, keywords as source) of every call."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def dangers(source: str) -> list[str]:
    """Calls that run or unpickle what they are given."""
    found = []
    for name, words in calls(source):
        last = name.split(".")[-1]
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "pickle.loads"):
            found.append(name)
        if name in ("torch.load", "pickle.load", "joblib.load", "dill.load") or last == "read_pickle":
            found.append(name)
        if words.get("shell") == "True" or words.get("allow_pickle") == "True":
            found.append(f"{name} with a shell or pickles")
        if "trust_remote_code" in words and words["trust_remote_code"] != "False":
            found.append(f"{name} with trust_remote_code={words['trust_remote_code']}")
        if last == "from_pretrained" and name.startswith(("Auto", "loader")) and "trust_remote_code" not in words:
            found.append(f"{name} that leaves trust_remote_code open")
    return found


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda path: path.relative_to(SRC).as_posix())
def test_no_module_runs_or_unpickles_what_it_reads(path):
    assert dangers(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)", "torch.load(path)", "yaml.load(text)", "subprocess.run(words, shell=True)",
        "np.load(p, allow_pickle=True)",
        "AutoModel.from_pretrained(name)", "AutoModel.from_pretrained(name, trust_remote_code=args.trust)",
    ],
)  # fmt: skip
def test_the_check_itself_can_fail(source):
    assert dangers(source) != []


def test_the_host_unpickles_nothing_of_a_checkpoint():
    # optimizer.pt, scheduler.pt, scaler.pt and rng_state.pth are read again on a resume; training_args.bin never is.
    source = Path(transformers.trainer.__file__).read_text()
    loads = [words for name, words in calls(source) if name == "torch.load"]
    assert len(loads) >= 5
    assert all(words.get("weights_only") == "True" for words in loads)


def test_a_chat_template_stays_in_its_sandbox(tiny_tokenizer):
    from dqo.models.chat import chat_text

    message = [{"role": "user", "content": "the dog"}]
    assert chat_text(tiny_tokenizer, message) == "user the dog assistant "
    before = tiny_tokenizer.chat_template
    try:
        for template, problem in (
            ("{{ ''.__class__.__mro__ }}", "SecurityError"),
            ("{{ messages.append(1) }}", "SecurityError"),
            ("{{ 1 / 0 }}", "ZeroDivisionError"),
            ("{% for", "TemplateSyntaxError"),
        ):
            tiny_tokenizer.chat_template = template
            with pytest.raises(ModelError, match=rf"to render a conversation, but it failed \({problem}"):
                chat_text(tiny_tokenizer, message)
    finally:
        tiny_tokenizer.chat_template = before


def test_an_encoder_cannot_bring_code(tmp_path):
    from dqo.embedders import load_embedder

    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(EncoderError, match=r"brings code of its own, which dqo never runs\); .*endpoint:"):
        load_embedder(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_model_folder_cannot_bring_code(tiny_policy_folder):
    from dqo.models.policy import load_policy

    marker = tiny_policy_folder / "ran"
    (tiny_policy_folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((tiny_policy_folder / "config.json").read_text())
    names = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    (tiny_policy_folder / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": names}))
    with pytest.raises(ModelError, match="but loading failed"):
        load_policy(str(tiny_policy_folder))
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "a/../../../b", "..", "~/x", "C:\\x", "x\\..\\..\\y", "a\nb", "`x`"]
)
def test_ids_of_a_data_set_lead_nowhere(tmp_path, name):
    from dqo.embedders import load_embedder
    from dqo.evaluation.compare import compare
    from dqo.evaluation.run import evaluate
    from dqo.report.page import write_report

    inside = tmp_path / "a" / "b" / "c"
    for run in ("one", "two"):
        group = Group(name, f"Say {name}.", [], ["x y", "z"], ["eos", "eos"], [1.0, 0.0], {"id": name, "path": name})
        evaluate([group, Group("other", "Say.", [], ["x", "z"], ["eos", "eos"], [1.0, 0.0], {})],
                 encoder=load_embedder("hashed"), out=inside / run)  # fmt: skip
    compare([inside / "one", inside / "two"], inside / "out")
    write_report([inside / "one", inside / "two"], inside / "r.html", maps=0)
    written = {path.relative_to(tmp_path).parts[:3] for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {("a", "b", "c")}
    files = {path.name for path in inside.rglob("*") if path.is_file()}
    assert files <= {"groups.jsonl", "metrics.json", "prompt_metrics.jsonl", "comparison.json", "r.html"}


@pytest.mark.parametrize(
    "url",
    ["ftp://x/v1", "file:///etc/passwd", "x", "", "http://", "http://u:secret@h/v1", "http://u:secret@", "secret@h",
         "http://h/v1?key=secret",
     "http://[::1", "http://h:99999/v1", "http://h/#a", "javascript:1", "http:///v1", None, 3],
)  # fmt: skip
def test_a_url_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(EndpointError, match="without user, password or query, got ") as caught:
        checked_url(url, "OPENAI_API_KEY")
    assert "secret" not in str(caught.value)


LOCAL = [
    "localhost:8000",
    "127.0.0.1",
    "[::1]:80",
    "10.1.2.3",
    "192.168.0.9",
    "node7:8000",
    "judge.team.svc",
    "a.local",
]
PUBLIC = ["8.8.8.8", "api.example.com", "localhost.example.com", "127.0.0.1.example.com"]


@pytest.mark.parametrize(("host", "local"), [(h, True) for h in LOCAL] + [(h, False) for h in PUBLIC])
def test_a_key_does_not_leave_the_network_in_the_open(host, local, monkeypatch, capsys):
    url = f"http://{host}/v1"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    if local:
        assert checked_url(url + "/", "OPENAI_API_KEY") == url
        assert capsys.readouterr().err == ""
    else:
        with pytest.raises(EndpointError, match="expected https, because OPENAI_API_KEY is set") as caught:
            checked_url(url, "OPENAI_API_KEY")
        assert KEY not in str(caught.value)
        assert checked_url(url.replace("http:", "https:"), "OPENAI_API_KEY").startswith("https:")
        monkeypatch.delenv("OPENAI_API_KEY")
        assert checked_url(url, "OPENAI_API_KEY") == url
        assert "travel readable" in capsys.readouterr().err


def test_a_server_that_repeats_the_key_does_not_get_it_into_a_message(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    async def ask(client, item):
        raise ValueError(f"the key {client.api_key} is wrong")

    with pytest.raises(EndpointError, match="the key <OPENAI_API_KEY> is wrong"):
        Endpoint("http://localhost:1/v1", "m", retries=0).map(ask, ["x"])
