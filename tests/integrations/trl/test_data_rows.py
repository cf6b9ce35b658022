"""What is drawn from a data set: groups by position, TRL's order of arguments, and prompts without their template."""

import copy
import random

import pytest
import torch
from datasets import Dataset, IterableDataset
from trl import GRPOTrainer, RLOOTrainer

from dqo import DQOConfig, DQOPPOConfig, DQOPPOTrainer, DQORLOOConfig, DQORLOOTrainer, DQOTrainer
from dqo.errors import GroupError
from dqo.integrations.trl.step import number_repeats
from dqo.rewards import DiversityReward

PROMPTS = ["the dog", "a cat", "red house", "old tree"]
CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
COMMON = {
    "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6, "use_cpu": True, "max_steps": 1,
    "report_to": [], "save_strategy": "no", "encoder": "hashed", "beta": 0.0, "disable_tqdm": True,
}  # fmt: skip
WITH_CALLS = (
    "{% for m in messages %}{{ m['role'] }} {% for t in m.get('tool_calls') or [] %}{{ t['function']['name'] }} "
    "{{ t['function']['arguments'] }} {% endfor %}{{ m['content'] or '' }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


class Changing:
    """An environment whose observations differ between the rollouts of a group, and which owns the reward."""

    def __init__(self):
        self.random = random.Random()

    def reset(self, **row):
        """Starts anew."""
        if "prompt" in row:
            row["prompt"][0]["role"] = self.random.choice(["user", "assistant"])  # a careless one changes its row
        return " " + self.random.choice(["red", "blue", "green", "old"]) * self.random.randint(1, 3)

    def get_reward(self):
        return self.random.random()


class Steady(Changing):
    """The same observation for all rollouts."""

    def reset(self, **row):
        """Starts anew."""
        return " red"


@pytest.fixture
def calling_tokenizer(tiny_tokenizer, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = WITH_CALLS
    return tokenizer


def train(trainer):
    before = [weight.clone() for weight in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    return trainer.state.log_history[0]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    ("trainer_class", "config"), [(DQOTrainer, DQOConfig), (DQOPPOTrainer, DQOPPOConfig)], ids=["grpo", "ppo"]
)
@pytest.mark.parametrize(
    ("environment", "rows"),
    [
        (Changing, {"prompt": CHATS}),
        (Changing, None),
        ({"one": Changing, "two": Steady}, {"environment": ["one", "two", "one", "two"], "seed": [1, 2, 3, 4]}),
    ],
    ids=["prompts", "no-data-set", "no-prompt"],
)
def test_observations_may_differ_within_a_group(
    trainer_class, config, environment, rows, bf16, tiny_policy, calling_tokenizer, tmp_path
):
    dataset = None if rows is None else Dataset.from_dict(rows)
    args = config(str(tmp_path), **COMMON, bf16=bf16)
    trainer = trainer_class(
        tiny_policy, args=args, train_dataset=dataset, processing_class=calling_tokenizer,
        environment_factory=environment,
    )  # fmt: skip
    assert 1.0 <= train(trainer)["diversity/vendi"] <= 4.0


def test_a_reward_function_sees_no_column_but_the_data_set_s(tiny_policy, calling_tokenizer, tmp_path):
    """No **kwargs: one more column would be a TypeError."""

    def score(prompts, completions, completion_ids, seed, trainer_state, log_extra, log_metric, environments):
        return [float(len(set(prompts)) if isinstance(prompts[0], str) else len(text)) for text in completions]

    dataset = Dataset.from_dict({"prompt": CHATS, "seed": [1, 2, 3, 4]})
    trainer = DQOTrainer(
        tiny_policy, score, DQOConfig(str(tmp_path), **COMMON), dataset, processing_class=calling_tokenizer,
        environment_factory=Changing,
    )  # fmt: skip
    trainer.train()
    assert trainer.reward_func_names == ["score", "diversity", "Changing"]


def test_rows_out_of_order_are_refused_before_anything_is_sampled(tiny_policy, tiny_tokenizer, tmp_path):
    trainer = DQOTrainer(
        tiny_policy, lambda completions, **_: [0.0] * len(completions), DQOConfig(str(tmp_path), **COMMON),
        Dataset.from_dict({"prompt": PROMPTS}), processing_class=tiny_tokenizer,
    )  # fmt: skip
    trainer._generate = None  # would be called after the check
    rows = [{"prompt": prompt} for prompt in [*["a"] * 3, "b", *["b"] * 3, "a"]]
    with pytest.raises(GroupError, match="Expected rows 0 to 3 to answer one prompt, but row 3"):
        trainer._generate_and_score_completions(rows)
    with pytest.raises(GroupError, match="Expected rows 0 to 3"):
        trainer._generate_and_score_completions([{"seed": seed} for seed in (1, 1, 1, 2, 2, 2, 2, 1)])


def test_the_reward_function_of_a_plain_trainer_takes_environments_too():
    rows = {"environments": [object()] * 8, "seed": [1] * 4 + [2] * 4, "completion_ids": [[i] for i in range(8)]}
    prompts = [f"seen {i}" for i in range(8)]
    texts = ["red"] * 4 + ["red", "blue", "green", "old tree"]
    reward = DiversityReward(4, encoder="hashed")
    credits = reward(prompts, texts, **rows)
    assert credits == pytest.approx(reward([*"aaaabbbb"], texts), abs=1e-12)
    with pytest.raises(GroupError):
        reward(prompts, texts, seed=rows["seed"])
    with pytest.raises(GroupError):
        reward(prompts, texts, **rows | {"seed": [1, 2] * 4})


@pytest.mark.parametrize(
    ("trainer_class", "config", "host"),
    [
        (DQOTrainer, DQOConfig, GRPOTrainer),
        (DQORLOOTrainer, DQORLOOConfig, RLOOTrainer),
        (DQOPPOTrainer, DQOPPOConfig, GRPOTrainer),
    ],
    ids=["grpo", "rloo", "ppo"],
)
def test_arguments_stand_in_trl_s_order(trainer_class, config, host, tiny_policy, tiny_tokenizer, tmp_path):
    train_rows, eval_rows = Dataset.from_dict({"prompt": PROMPTS}), Dataset.from_dict({"prompt": PROMPTS[:2]})
    positional = [tiny_policy, len_reward, config(str(tmp_path), **COMMON), train_rows, eval_rows, tiny_tokenizer]
    trainer = trainer_class(*positional)
    assert trainer.train_dataset["prompt"][:] == PROMPTS
    assert trainer.eval_dataset["prompt"][:] == PROMPTS[:2]
    assert trainer.processing_class is tiny_tokenizer
    with pytest.raises(TypeError, match="multiple values for argument 'train_dataset'"):
        trainer_class(*positional, train_dataset=train_rows)
    with pytest.raises(TypeError, match="too many positional arguments"):
        trainer_class(*positional, *[None] * 20)


def len_reward(completions, **_):
    return [float(len(text)) for text in completions]


def test_columns_of_one_name_are_told_apart(tiny_policy, tiny_tokenizer, tmp_path):
    args = DQOConfig(str(tmp_path), **COMMON, log_completions=True)
    rewards = (lambda completions, **_: [1.0] * len(completions), lambda completions, **_: [3.0] * len(completions))
    trainer = DQOTrainer(tiny_policy, rewards, args, Dataset.from_dict({"prompt": PROMPTS}), None, tiny_tokenizer)
    assert trainer.reward_func_names == ["<lambda>", "<lambda>_2", "diversity"]
    log = train(trainer)
    assert (log["rewards/<lambda>/mean"], log["rewards/<lambda>_2/mean"], log["quality"]) == (1.0, 3.0, 4.0)
    assert number_repeats(["a", "a_2", "a", "a"]) == ["a", "a_2", "a_3", "a_4"]
    assert number_repeats(["a", "a", "a_2"]) == ["a", "a_3", "a_2"]


@pytest.mark.parametrize(
    ("rows", "template", "warnings"),
    [(PROMPTS, True, 1), (CHATS, True, 0), (PROMPTS, False, 0), ([f"{p} <eos>" for p in PROMPTS], True, 0)],
    ids=["strings", "messages", "no-template", "applied-already"],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_strings_for_a_chat_model_are_warned_of_once(
    rows, template, warnings, streamed, tiny_policy, tiny_tokenizer, tmp_path, caplog
):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = tiny_tokenizer.chat_template if template else None
    table = [{"prompt": prompt} for prompt in rows]
    dataset = IterableDataset.from_generator(lambda: iter(table)) if streamed else Dataset.from_list(table)
    args = DQOConfig(str(tmp_path), **COMMON | {"max_steps": 2})
    DQOTrainer(
        tiny_policy, lambda completions, **_: [float(len(c)) for c in completions], args, dataset, None, tokenizer
    ).train()
    assert caplog.text.count("without its chat template") == warnings
