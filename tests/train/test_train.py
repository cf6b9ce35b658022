"""A real run of the tiny policy from recipe to comparison, killed and resumed on the way."""

import json
import re
import signal
import sys

import forking
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from dqo.cli.main import main
from dqo.errors import DataError
from dqo.files.records import Conversation, read_groups
from dqo.models.chat import conversation
from dqo.train.folder import run_chat_settings
from dqo.train.prepare import Prepared
from dqo.train.recipe import load_recipe

pytestmark = pytest.mark.slow
PROMISED = {"step", "quality", "diversity/credit", "diversity/vendi", "alpha", "kl", "time/step", "time/embed"}


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_run_folder_holds_what_is_promised(own_recipe, tmp_path, tiny_policy, capsys, monkeypatch):
    assert main(["train", str(own_recipe()), "alpha=0.5"]) == 0
    run = tmp_path / "run"
    rows = logged(run)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert set(rows[0]) >= PROMISED
    assert rows[0]["alpha"] == 0.5
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["alpha"], config["trainer"]["max_completion_length"]) == (0.5, 6)
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"checkpoint-2", "checkpoint-3", "final"}
    assert not (run / "checkpoints" / "final.partial").exists()
    policy = AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "final")
    assert AutoTokenizer.from_pretrained(run / "checkpoints" / "final").chat_template
    moved = [not torch.equal(a, b) for a, b in zip(policy.parameters(), tiny_policy.parameters(), strict=True)]
    assert all(moved), "three steps at learning rate 1e-2 must move every weight"
    output = capsys.readouterr()
    assert f"policy: {run / 'checkpoints' / 'final'}" in output.out
    assert "Quality 0." in output.err
    assert "'loss'" not in output.err + output.out, "the host's dictionary a step must not be printed"
    assert "deprecated" not in output.err

    _evaluate_as_told_and_compare(output.out, tmp_path, capsys)
    card = (run / "checkpoints" / "final" / "README.md").read_text()
    assert "| up to step | Quality | Vendi score |" in card
    assert "| metric | temperature 1.0, 4 prompts × 4 responses |" in card
    monkeypatch.chdir(run / "checkpoints" / "final")
    answers = {}
    exec(re.search(r"```python\n(.*?)```", card, flags=re.S)[1], answers)
    assert len(answers["answers"]) == 10


def _evaluate_as_told_and_compare(said, tmp_path, capsys):
    import shlex

    command = shlex.split(said.split("next:")[1])
    assert command[0] == "dqo"
    assert command[command.index("--split") + 1] == "train", "the only prompts that this task has"
    assert main([*command[1:], "--n", "4"]) == 0
    base = list(command[1:])
    base[base.index("--model") + 1] = str(tmp_path / "tiny-policy")
    base[base.index("--out") + 1] = str(tmp_path / "base")
    assert main([*base, "--n", "4"]) == 0
    document = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert (document["n_prompts"], document["n_samples"]) == (4, 4)
    assert 0 <= document["metrics"]["quality"]["mean"] <= 1
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "run"), "--out", str(tmp_path / "cmp")]) == 0
    assert "vendi_1" in capsys.readouterr().out
    assert (tmp_path / "cmp" / "comparison.json").exists()


def test_killed_run_resumes_and_logs_each_step_once(own_recipe, tmp_path, dqo_process, capsys):
    recipe = own_recipe(reward="killed_at_the_fourth_call", trainer={"max_steps": 5})
    killed = dqo_process("train", recipe)
    assert killed.returncode == -signal.SIGKILL
    run = tmp_path / "run"
    assert [row["step"] for row in logged(run)] == [1, 2, 3], "step 3 must be logged beyond the checkpoint of step 2"
    half = run / "checkpoints" / "checkpoint-3"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_st')
    assert main(["train", str(recipe)]) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main(["train", str(recipe), "alpha=2", "--resume"]) == 2
    assert "'alpha' was 1.0 and is now 2.0; set it back" in capsys.readouterr().err
    assert main(["train", str(recipe), "lora={r: 2}", "--resume"]) == 2
    assert "'lora' was {}" in capsys.readouterr().err
    assert main(["train", str(recipe), "--resume"]) == 0
    said = capsys.readouterr()
    assert f"dqo: continuing from {run / 'checkpoints' / 'checkpoint-2'}" in said.err
    assert [row["step"] for row in logged(run)] == [1, 2, 3, 4, 5]
    assert "Trained to step 5" in said.out


def test_resume_without_a_checkpoint_starts_from_scratch_and_says_so(own_recipe, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "quality": 0.9}\n')
    assert main(["train", str(own_recipe()), "--resume", "algorithm=rloo", "trainer.max_steps=2"]) == 0
    assert "holds no complete checkpoint yet, so the run starts from scratch" in capsys.readouterr().err
    rows = logged(run)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["quality"] != 0.9
    assert rows[0]["kl"] is not None, "RLOO has a reference policy by default"


def test_a_run_is_trained_and_evaluated_with_its_system_prompt(own_recipe, prompt_file, tmp_path, capsys):
    recipe = own_recipe(system_prompt="a sad cat", trainer={"max_steps": 1, "log_completions": True})
    assert main(["train", "--dry-run", str(recipe)]) == 0
    assert "a sad cat" in capsys.readouterr().out.split("--- prompt 1")[1]
    assert main(["train", str(recipe)]) == 0
    assert "a sad cat" in capsys.readouterr().out, "the host prints what was asked"
    command = ["sample", "--model", str(tmp_path / "run"), "--data", str(prompt_file), "--n", "1"]
    for flags, asked in (([], "a sad cat"), (["--system-prompt", "old dog"], "old dog")):
        out = tmp_path / "at" / asked
        assert main([*command, *flags, "--limit", "1", "--max-new-tokens", "4", "--out", str(out)]) == 0
        assert json.loads((out / "sampling.json").read_text())["system_prompt"] == asked
    assert run_chat_settings(str(tmp_path / "run" / "checkpoints" / "final")).get("system_prompt") == "a sad cat"
    assert run_chat_settings(str(tmp_path / "tiny-policy")) == run_chat_settings("owner/name") == {}


def test_conversations_are_trained_and_evaluated_as_the_chat_template_writes_them(own_recipe, tmp_path, capsys):
    talk = [("user", "the dog"), ("assistant", "runs"), ("user", "a cat")]
    messages = [{"role": role, "content": content} for role, content in talk]
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"prompt": [*messages[:2], {"role": "user", "content": last}]}) + "\n"
                            for last in ("a cat", "red house")))  # fmt: skip
    options = yaml.safe_load(own_recipe().read_text())["task_options"] | {"train": str(path)}
    recipe = load_recipe(own_recipe(task_options=options))
    assert Prepared(recipe).rendered(Prepared(recipe).prompts[0]) == "user the dog assistant runs user a cat assistant "
    assert main(["train", str(own_recipe(task_options=options))]) == 0
    where = ["--data", str(path), "--n", "2", "--max-new-tokens", "4", "--encoder", "hashed"]
    assert main(["eval", "--model", str(tmp_path / "run"), *where, "--out", str(tmp_path / "eval")]) == 0
    (first, _) = read_groups(tmp_path / "eval" / "groups.jsonl")
    assert first.prompt.messages == messages
    capsys.readouterr()
    with pytest.raises(DataError, match=r"expected prompts without a system message, got 'Be brief\.'"):
        conversation(Conversation([{"role": "system", "content": "Be brief."}, *messages]), "Be kind.")


def test_a_start_that_was_refused_does_not_take_the_folder(own_recipe, tmp_path, capsys):
    recipe = str(own_recipe(trainer={"max_steps": 1}))
    assert main(["train", recipe, "encoder=hashd"]) == 2
    assert main(["train", recipe, "trainer.optim=adamw_8bit"]) == 2, "found out after the config was written"
    assert main(["train", recipe]) == 0
    assert main(["train", recipe]) == 2, "now it holds a run"
    assert "with --resume a run to continue, but it holds 'checkpoints'; add --resume" in capsys.readouterr().err


def test_a_resume_with_other_data_is_refused(own_recipe, prompt_file, tmp_path, capsys):
    recipe = str(own_recipe())
    assert main(["train", recipe]) == 0
    lines = prompt_file.read_text().splitlines()
    prompt_file.write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    assert main(["train", recipe, "--resume", "trainer.max_steps=5", "trainer.run_name=longer"]) == 2
    assert "resolved.yaml: expected the run that --resume continues, but 'prompts' was" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["max_steps"] == 3
    prompt_file.write_text("\n".join(lines) + "\n")
    assert main(["train", recipe, "--resume", "trainer.max_steps=5"]) == 0
    assert [row["step"] for row in logged(tmp_path / "run")] == [1, 2, 3, 4, 5]


def test_ppo_from_a_recipe_keeps_its_critic_out_of_the_policy(own_recipe, tmp_path, capsys):
    recipe = own_recipe(algorithm="ppo", trainer={"max_steps": 2, "num_iterations": 2, "save_steps": 2})
    assert main(["train", str(recipe)]) == 0
    run = tmp_path / "run"
    assert {"critic/value_loss", "critic/explained_variance", "quality"} <= logged(run)[0].keys()
    assert (run / "checkpoints" / "checkpoint-2" / "critic" / "critic.safetensors").is_file()
    assert not (run / "checkpoints" / "final" / "critic").exists()
    _, info = AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "final", output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    resumed = ["train", str(recipe), "trainer.max_steps=4", "--resume"]
    assert main(resumed) == 0
    assert [row["step"] for row in logged(run)] == [1, 2, 3, 4]
    assert main([*resumed, "trainer.gae_lambda=0.5"]) == 2
    assert "'gae_lambda' was 0.95 and is now 0.5" in capsys.readouterr().err


def test_full_disk_is_told_in_a_sentence(own_recipe, tmp_path):
    """A limit on file size stands for the full disk: the checkpoint's weights do not fit."""
    limited = (
        "import resource, sys; from dqo.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    result = forking.run([sys.executable, "-c", limited, "train", str(own_recipe())], capture_output=True, text=True)
    assert result.returncode == 2, result.stderr[-2000:]
    assert result.stderr.splitlines()[-1].startswith(
        f"dqo: error: {tmp_path / 'run' / 'checkpoints'}: writing failed ("
    )
    assert "Traceback" not in result.stderr


def test_sigterm_saves_the_step_and_a_resume_goes_on(own_recipe, tmp_path, dqo_process, capsys):
    before = signal.getsignal(signal.SIGTERM)
    recipe = own_recipe(reward="terminated_at_the_second_call", trainer={"max_steps": 5, "save_steps": 100})
    ended = dqo_process("train", recipe)
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    run = tmp_path / "run"
    assert "SIGTERM: step 2 is saved" in ended.stderr
    assert [path.name for path in (run / "checkpoints").glob("*-*")] == ["checkpoint-2"]
    assert main(["train", str(recipe), "--resume"]) == 0
    assert [row["step"] for row in logged(run)] == [1, 2, 3, 4, 5]
    assert signal.getsignal(signal.SIGTERM) == before, "the signal is given back"


def test_a_finished_run_without_its_checkpoints_is_not_trained_anew(own_recipe, tmp_path, capsys):
    recipe = own_recipe(trainer={"max_steps": 1, "save_strategy": "no"})
    assert main(["train", str(recipe)]) == 0
    before = (tmp_path / "run" / "checkpoints" / "final" / "model.safetensors").read_bytes()
    assert main(["train", str(recipe), "alpha=7", "--resume"]) == 2
    assert (
        "expected a whole checkpoint to continue from, but the run has finished or lost them" in capsys.readouterr().err
    )
    assert (tmp_path / "run" / "checkpoints" / "final" / "model.safetensors").read_bytes() == before


def test_a_run_goes_on_and_starts_anew_on_another_kind_of_machine(own_recipe, tmp_path, monkeypatch, capsys):
    from dqo.integrations.trl import config

    recipe = own_recipe(trainer={"max_steps": 2})
    document = yaml.safe_load(recipe.read_text())
    del document["trainer"]["use_cpu"]
    recipe.write_text(yaml.safe_dump(document))
    monkeypatch.setattr(config, "native_bf16", lambda cpu=False: False)
    assert main(["train", str(recipe)]) == 0
    run = tmp_path / "run"
    given, resolved = (yaml.safe_load((run / name).read_text()) for name in ("config.yaml", "resolved.yaml"))
    assert (given["trainer"]["use_cpu"], given["trainer"]["bf16"]) == (False, None)
    assert "versions" not in given
    assert (resolved["device"], resolved["processes"]) == ("cpu", 1)
    assert (resolved["trainer"]["use_cpu"], resolved["trainer"]["bf16"]) == (True, False)
    assert resolved["attention"] in ("sdpa", "eager")
    assert set(resolved["versions"]) == {"dqo", "torch", "trl", "transformers"}

    monkeypatch.setattr(config, "native_bf16", lambda cpu=False: True)  # the other machine
    capsys.readouterr()
    assert main(["train", str(recipe), "--resume", "trainer.max_steps=3"]) == 0
    assert "continues the run differently: bf16 was False and is now True" in capsys.readouterr().err
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["bf16"] is None
    assert yaml.safe_load((run / "resolved.yaml").read_text())["trainer"]["bf16"] is True
    assert main(["train", str(recipe), "--resume", "trainer.max_steps=4", "trainer.bf16=false"]) == 2, "now written"
    assert "'bf16' was None and is now False" in capsys.readouterr().err

    assert main(["train", str(run / "config.yaml"), f"output_dir={tmp_path / 'again'}"]) == 0
    again = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert again == yaml.safe_load((run / "config.yaml").read_text()) | {"output_dir": str(tmp_path / "again")}
    assert yaml.safe_load((tmp_path / "again" / "resolved.yaml").read_text())["trainer"]["bf16"] is True


def test_a_finished_run_takes_no_other_step_and_one_of_other_settings_is_refused(own_recipe, tmp_path, capsys):
    recipe = own_recipe(trainer={"max_steps": 2})
    assert main(["train", str(recipe)]) == 0
    kept = [path for path in (tmp_path / "run").rglob("*.*") if path.suffix in (".safetensors", ".jsonl", ".yaml")]
    before = {path: path.read_bytes() for path in kept}
    assert main(["train", str(recipe), "--resume"]) == 0
    assert {path: path.read_bytes() for path in kept} == before
    for other in ("seed=7", "alpha=3", "model=owner/other"):
        capsys.readouterr()
        assert main(["train", str(recipe), "--resume", other]) == 2
        assert f"'{other.partition('=')[0]}' was" in capsys.readouterr().err
    assert main(["train", str(recipe), "--resume", "trainer.max_steps=3"]) == 0
    assert [row["step"] for row in logged(tmp_path / "run")] == [1, 2, 3]
