"""What diversity adds to a verl step: seconds with and without it, on a real Ray and TransferQueue, without a model.

    python benchmarks/verl_adapter.py [--prompts 64] [--responses 8] [--tokens 256] [--encoder hashed] [--actors 0]

Runs in verl's environment (docs/guides/verl.md). Prints the median of several steps and the part of each group, by the
clock and in processor seconds of the trainer's process, which other work on the machine hardly changes.
"""

import argparse
import statistics
import time

import ray
import torch
import transfer_queue as tq
from hydra import compose, initialize_config_module
from tensordict import TensorDict
from tokenizers import Tokenizer, models, pre_tokenizers
from transfer_queue import KVBatchMeta
from transformers import PreTrainedTokenizerFast
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils import tensordict_utils as tu

from dqo.integrations.verl.trainer import DQOTrainerSync

WORDS = 5000


def tokenizer():
    """A word-level tokenizer over made-up words."""
    vocab = {"<unk>": 0} | {f"word{i}": i for i in range(1, WORDS)}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")


def batch(args, step):
    """P·G random responses in TransferQueue, as they are when advantages are computed."""
    generator = torch.Generator().manual_seed(step)
    n = args.prompts * args.responses
    lengths = torch.randint(args.tokens // 2, args.tokens + 1, (n,), generator=generator).tolist()

    def nested(make):
        return torch.nested.as_nested_tensor([make(length) for length in lengths], layout=torch.jagged)

    uids = [f"s{step}p{row // args.responses}" for row in range(n)]
    fields: TensorDict = tu.get_tensordict(
        {
            "responses": nested(lambda t: torch.randint(1, WORDS, (t,), generator=generator)),
            "response_mask": nested(lambda t: torch.ones(t, dtype=torch.int64)),
            "rm_scores": nested(lambda t: torch.rand(t, generator=generator)),
            "uid": uids,
        }
    )
    keys = [f"{uid}_{row % args.responses}_0" for row, uid in enumerate(uids)]
    tags = [{"is_padding": False} for _ in keys]
    tq.kv_batch_put(keys=keys, partition_id="train", fields=fields, tags=tags)
    return KVBatchMeta(keys=keys, tags=tags, partition_id="train")


def seconds(trainer, args, first_step):
    """Median seconds of `_compute_advantage` over the steps, the first one left out: by the clock, of the processor."""
    taken = []
    for step in range(first_step, first_step + args.steps + 1):
        rows, trainer.timing_raw = batch(args, step), {}
        clock, processor = time.perf_counter(), time.process_time()
        trainer._compute_advantage(rows, {})
        taken.append((time.perf_counter() - clock, time.process_time() - processor))
        tq.kv_clear(keys=rows.keys, partition_id="train")
    return [statistics.median(values) for values in zip(*taken[1:], strict=True)]


def main():
    """Measure verl alone, then with diversity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompts", 64), ("responses", 8), ("tokens", 256), ("actors", 0), ("steps", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--encoder", default="hashed")
    args = parser.parse_args()
    overrides = ["algorithm.adv_estimator=grpo", f"actor_rollout_ref.rollout.n={args.responses}"]
    ours = ["trainer.v1.trainer_mode=dqo_sync", f"+dqo.encoder={args.encoder}", f"+dqo.encoder_actors={args.actors}"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        plain, shaped = compose("ppo_trainer", overrides), compose("ppo_trainer", overrides + ours)
    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    tq.init(plain.transfer_queue)
    without = seconds(PPOTrainerSync(plain), args, first_step=0)
    trainer = DQOTrainerSync(shaped)
    trainer.tokenizer = tokenizer()
    diverse = seconds(trainer, args, first_step=1000)
    print(f"{args.prompts} prompts x {args.responses} responses of up to {args.tokens} tokens, encoder {args.encoder}")
    for name, alone, both in zip(("clock", "processor"), without, diverse, strict=True):
        added = both - alone
        print(
            f"{name}: verl alone {alone:.3f} s, diversity {added:+.3f} s, {1e3 * added / args.prompts:.2f} ms a group"
        )
    tq.close()
    ray.shutdown()


if __name__ == "__main__":
    main()
