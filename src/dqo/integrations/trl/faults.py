"""Faults of a run: refuses what would train otherwise than asked, warns, and stops before NaN reaches the weights.

TRL filters NaN losses out of its logs by default and goes on with broken weights.
"""

import json
import math
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import reduce
from packaging.version import Version
from torch import Tensor
from transformers import AutoModelForSequenceClassification, TrainerCallback, TrainerControl, TrainerState
from transformers import __version__ as transformers
from transformers.integrations import is_fsdp_enabled

from dqo.errors import RewardError, TrainingError
from dqo.files.records import write_text
from dqo.files.run import newest_whole
from dqo.files.stop_signals import StopSignals
from dqo.models.weights import check_files

logger = get_logger(__name__)
_NAMED = 3  # tensors named in a diagnosis
_WINDOW = 5  # logged steps over which quality is averaged
_TIED = 0.9  # of the groups, from which on the run is warned
_SHARE = 0.5  # of the best quality so far, below which the run is warned


def stop_before_nan(losses: list[Tensor], norm: Any, trainer: Any) -> None:
    """Stops a training, with a TrainingError, before a loss or a gradient that is not finite reaches the weights.

    The losses are scalars of the micro-batches of one optimizer step. The norm is that of the whole gradient, possibly
    sharded, or None where DeepSpeed computes none.
    """
    # All numbers together and once per optimizer step, so that no micro-batch waits for its own.
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else 0.0 if norm is None else norm
    device = trainer.args.device
    numbers = [torch.as_tensor(value, dtype=torch.float32, device=device).detach() for value in (*losses, norm)]
    # ZeRO says -1 for a gradient with NaN or infinity.
    *shown, norm = torch.stack(numbers).tolist()
    if norm >= 0 and all(map(math.isfinite, (*shown, norm))):
        return
    parts = {
        "the weights are": trainer.model.named_parameters(),
        "the batch is": (pair for batch in trainer._buffered_inputs for pair in batch.items()),
    }
    blamed = [f"{part} not finite in {names}" for part, pairs in parts.items() if (names := _not_finite(pairs))]
    reason = (blamed or ["weights and batch are finite, so the forward or backward pass went out of range"])[0]
    raise TrainingError(
        f"step {trainer.state.global_step + 1}: expected finite losses and a finite gradient, got losses {shown} and a "
        f"norm of {norm}; {reason}; lower trainer.learning_rate, set trainer.bf16=false or trainer.max_grad_norm, and "
        f"{describe_way_back(trainer.args.output_dir)}."
    )


def _not_finite(named: Iterable[tuple[str, Any]]) -> str:
    """Names of the first tensors with NaN or infinity; empty where there is none."""
    found = {}  # a dict, because micro-batches share names
    for name, value in named:
        part = value.to_local() if hasattr(value, "to_local") else value  # of a sharded tensor, this process's
        if isinstance(part, Tensor) and not part.isfinite().all():
            found[name] = None
    return ", ".join(list(found)[:_NAMED])


@contextmanager
def keeping_failed_batch(folder: Path, step: int, process: int) -> Iterator[None]:
    """Writes the batch that a reward function fails on to a file of the folder, which the RewardError then names."""
    try:
        yield
    except RewardError as error:
        if error.batch is None:
            raise
        path = folder / f"failed_reward-step{step + 1}-process{process}.jsonl"
        # Escaped, because a text that broke a reward may hold what cannot be encoded.
        write_text(path, "".join(json.dumps(row, default=repr) + "\n" for row in error.batch))
        raise RewardError(f"{str(error).removesuffix('.')}; what it was called with is in {path}.") from error


def describe_way_back(folder: str) -> str:
    """Says in half a sentence how a run that stopped goes on from the newest whole checkpoint of a folder."""
    newest = newest_whole(folder).newest
    if newest is None:
        return "start anew, for there is no checkpoint yet"
    return f"continue with --resume from {newest}, the last good checkpoint"


class SaveOnSignal(TrainerCallback):
    """Handles SIGTERM, Ctrl-C, SIGHUP and a dead launcher: finishes the step, saves, stops.

    Attributes:
        listening: opens a block in which signals are noted.
        signal: what stopped the run, on any rank; SIGTERM where another rank got it or there was none, None before.
        reason: the same in words.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.reason = ""
        # torchrun (accelerate's too) started this process; a run that a shell started may outlive its shell.
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._signals = StopSignals(
            "Ctrl-C: the step in progress is finished and saved; Ctrl-C again ends the run at once.", self._end
        )
        self.listening = self._signals.listening

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask TRL to save and stop where any rank was asked to."""
        # A launcher that is killed (kill -9, or for want of memory) sends its processes no signal: they would train on.
        orphaned = self._launcher not in (None, os.getppid())
        asked = torch.tensor(int(orphaned or self._signals.asked is not None), device=args.device)  # ()
        # One rank may get the signal a step before another.
        if reduce(asked, "max"):
            self.signal = self._signals.asked or signal.SIGTERM
            self.reason = "the launcher is gone" if orphaned else self.signal.name
            control.should_save = control.should_training_stop = True

    def _end(self) -> None:
        """Ends the run at a second Ctrl-C."""
        if self._launcher is None:  # a launcher passes the first one on and gives its processes time of its own
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt


class OutweighedWarning(TrainerCallback):
    """Warns once where quality has halved while responses were paid for being different.

    Failing responses are the most different ones. A group in which nearly all fail teaches little else than difference,
    and a run seldom finds its way back from there.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._best, self._warned = 0.0, False

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Compare the quality just logged with the best."""
        quality, alpha = (logs or {}).get("quality"), (logs or {}).get("alpha")
        if self._warned or quality is None or not alpha or not state.is_world_process_zero:
            return
        self._recent.append(quality)
        now = sum(self._recent) / _WINDOW
        if len(self._recent) == _WINDOW:
            self._best = max(self._best, now)
        if self._best > 0 and now < _SHARE * self._best:
            self._warned = True
            print(
                f"dqo: step {state.global_step}: quality is {now:.2g} on average of the last {_WINDOW} logged steps "
                f"and was {self._best:.2g}, with alpha {alpha:.3g}: being different may have become worth more than "
                "being good; if it does not rise again, lower alpha, or let it rise later with alpha_warmup_steps.",
                file=sys.stderr,
            )


class TiedWarning(TrainerCallback):
    """Warns once where nearly all groups of the first logged steps tie: their rewards teach nothing."""

    def __init__(self) -> None:
        self._shares: list[float] = []

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Add up the shares of tied groups until there are enough of them."""
        share = (logs or {}).get("quality/tied_groups")
        # Late in a run ties are what it was for, and a resumed one has been warned.
        first = state.global_step <= _WINDOW * args.logging_steps
        if share is None or not first or not state.is_world_process_zero:
            return
        self._shares.append(share)
        if len(self._shares) == _WINDOW and sum(self._shares) >= _TIED * _WINDOW:
            print(
                f"dqo: step {state.global_step}: in {sum(self._shares) / _WINDOW:.0%} of the groups so far all rewards "
                "are equal, and there the reward teaches nothing; stop, and run `dqo probe RECIPE`, which says why.",
                file=sys.stderr,
            )


class TemplateWarning:
    """Warns once of prompts that reach a chat model as plain text, without the template that it was tuned with.

    Args:
        tokenizer: the policy's tokenizer or processor.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = None
        if getattr(tokenizer, "chat_template", None):
            self._tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor

    def look(self, rows: list[dict[str, Any]]) -> None:
        """Look at the rows of a batch, until one was warned of."""
        plain = [row["prompt"] for row in rows if isinstance(row.get("prompt"), str)]
        if self._tokenizer is None or not plain:
            return
        # A prompt that holds tokens which only a template writes was rendered before.
        special = set(self._tokenizer.all_special_ids) - {self._tokenizer.unk_token_id}
        if all(special.intersection(ids) for ids in self._tokenizer(plain, add_special_tokens=False)["input_ids"]):
            return
        self._tokenizer = None
        logger.warning(
            "dqo: the prompts are strings, so the model reads them without its chat template; pass them as messages, "
            '[{"role": "user", "content": ...}], unless the model shall continue plain text.'
        )


def list_misfits(args: Any, wanted: type, model: Any = None, peft_config: Any = None) -> Iterator[tuple[bool, str]]:
    """Lists what is wrong with settings, given and wanted, and a policy that is no name, for `refuse`."""
    name = wanted.__name__
    yield (
        not isinstance(args, wanted) or args.centres_groups != wanted.centres_groups,  # PPO's are a kind of GRPO's
        f"this trainer needs a {name}, got {type(args).__name__}; pass args={name}(...).",
    )
    # Over several, torch's DataParallel would split the groups of each batch.
    yield (
        args.n_gpu > 1,
        f"expected one GPU per process, got {args.n_gpu} visible ones and no launcher; start with `accelerate launch "
        f"--multi_gpu --num_processes {args.n_gpu} -m dqo train ...`, or set CUDA_VISIBLE_DEVICES=0.",
    )
    # Older transformers leave the weights of the reference 0 on all processes but the first: they are to be filled from
    # there, which TRL does for the policy alone.
    zeros = is_fsdp_enabled() and os.environ.get("FSDP_VERSION") == "2" and Version(transformers) < Version("5.23")
    yield (
        bool(args.beta) and zeros,
        f"`beta` under FSDP 2 needs transformers 5.23 or later, got {transformers}, with which the reference model is "
        "wrong; update it, or set `fsdp_cpu_ram_efficient_loading: false` in the file of `accelerate launch`.",
    )
    remedy = "merge it into its base (merge_and_unload of peft), save that and train from there"
    yield (
        peft_config is not None and getattr(model, "_hf_peft_config_loaded", False),
        "expected a policy without an adapter beside `peft_config`, whose additions would take its place, got one that "
        f"was loaded with it; {remedy}.",
    )
    loaded = peft_config is None and isinstance(model, torch.nn.Module)
    yield (
        loaded and not any(weight.requires_grad for weight in model.parameters()),
        "expected a policy with weights to train, got one whose weights are all frozen; pass `peft_config`, or set "
        f"requires_grad; if it was loaded from an adapter, {remedy}.",
    )


def check_named(model: Any, funcs: list, args: Any, peft_config: Any) -> None:
    """Refuses, with ModelError, policies, references and reward models that TRL would load with random weights."""
    options = {key: value for key, value in (args.model_init_kwargs or {}).items() if key in ("revision", "token")}
    if isinstance(model, str):
        check_files(model, **options)
    elif args.beta and peft_config is None and model.config.name_or_path:  # the reference
        check_files(model.config.name_or_path)
    for func in funcs:
        if isinstance(func, str):
            check_files(func, loader=AutoModelForSequenceClassification, num_labels=1, **options)
