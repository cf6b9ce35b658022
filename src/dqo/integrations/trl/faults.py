"""Faults of a run: refuses what would train otherwise than asked, warns, and stops before NaN reaches the weights.

TRL filters NaN losses out of its logs by default and goes on with broken weights.
"""

import json
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.logging import get_logger
from packaging.version import Version
from torch import Tensor
from transformers import AutoModelForSequenceClassification, TrainerCallback, TrainerControl, TrainerState
from transformers import __version__ as transformers
from transformers.integrations import is_fsdp_enabled

from dqo.errors import RecipeError, RewardError, TrainingError
from dqo.files.records import write_text
from dqo.files.run import newest_whole
from dqo.files.stop_signals import StopSignals
from dqo.models.weights import check_files

logger = get_logger(__name__)
_NAMED = 3  # tensors named in a diagnosis
_WINDOW = 5  # logged steps over which quality is averaged
_SHARE = 0.5  # of the best quality so far, below which the run is warned


def check_finite(losses: list[Tensor], norm: Any, trainer: Any) -> None:
    """Stops a training before a loss or a gradient that is not finite reaches the weights.

    Args:
        losses: scalars of the micro-batches of one optimizer step.
        norm: of the whole gradient, a number or a scalar, possibly sharded; None where DeepSpeed computes none.
        trainer: its weights and batch may be the reason.

    Raises:
        TrainingError: NaN or infinity.
    """
    # All numbers together and once per optimizer step, so that no micro-batch waits for its own.
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else 0.0 if norm is None else norm
    device = trainer.args.device
    numbers = [torch.as_tensor(value, dtype=torch.float32, device=device).detach() for value in (*losses, norm)]
    # NaN below 0: ZeRO says -1 for a gradient with NaN or infinity.
    numbers[-1] = numbers[-1].sqrt()
    finite = torch.stack(numbers).isfinite().tolist()
    if all(finite):
        return
    if all(finite[:-1]):
        found = f"a finite gradient, got a norm of {float(norm)}"
    else:
        found = f"a finite loss, got {float(losses[finite.index(False)])}"
    weights = _not_finite(trainer.model.named_parameters())
    batch = _not_finite(pair for part in trainer._buffered_inputs for pair in part.items())
    if weights:
        reason = f"the weights {weights} are not finite"
    elif batch:
        reason = f"the batch holds numbers that are not finite, in {batch}"
    else:
        reason = "weights and batch are finite, so the forward or backward pass went out of range"
    raise TrainingError(
        f"step {trainer.state.global_step + 1}: expected {found}; {reason}; lower trainer.learning_rate, set "
        f"trainer.bf16=false or trainer.max_grad_norm, and {describe_way_back(trainer.args.output_dir)}."
    )


@contextmanager
def keeping_failed_batch(folder: Path, step: int, process: int) -> Iterator[None]:
    """Writes the batch that a reward function fails on to a file before the run stops.

    Args:
        folder: of the file.
        step: optimizer steps done.
        process: index of the process.

    Raises:
        RewardError: the failure, with the name of the file.
    """
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


def _not_finite(named: Iterable[tuple[str, Any]]) -> str:
    """Names of the first tensors with NaN or infinity; empty where there is none."""
    found = {}  # a dict, because micro-batches share names
    for name, value in named:
        part = value.to_local() if hasattr(value, "to_local") else value  # of a sharded tensor, this process's
        if isinstance(part, Tensor) and part.is_floating_point() and not part.isfinite().all():
            found[name] = None
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(list(found)[:_NAMED]) + more


class SaveOnSignal(TrainerCallback):
    """Handles SIGTERM, Ctrl-C, SIGHUP and a dead launcher: finishes the step, saves, stops.

    Attributes:
        asked: whether the run was stopped, on any rank.
    """

    def __init__(self) -> None:
        self.asked, self._orphaned = False, False
        self._signals = StopSignals(
            "Ctrl-C: the step in progress is finished and saved; Ctrl-C again ends the run at once.", _end
        )
        self._parent = os.getppid()

    @property
    def signal(self) -> signal.Signals:
        """The signal that stopped the run; SIGTERM where another rank got it, or there was none."""
        return self._signals.asked or signal.SIGTERM

    @property
    def reason(self) -> str:
        """What stopped the run, in words."""
        return "the launcher is gone" if self._orphaned else self.signal.name

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes signals inside the block."""
        with self._signals.listening():
            yield

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask TRL to save and stop where any rank was asked to."""
        # A launcher that is killed (kill -9, or for want of memory) sends its processes no signal: they would train on.
        self._orphaned = _launched() and os.getppid() != self._parent
        asked = self._orphaned or self._signals.asked is not None
        if dist.is_available() and dist.is_initialized():
            # One rank may get the signal a step before another.
            flag = torch.tensor(int(asked), device=args.device)  # ()
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            asked = bool(flag)
        if asked:
            self.asked = control.should_save = control.should_training_stop = True


def _end() -> None:
    """Ends the run at a second Ctrl-C."""
    if not _launched():  # a launcher passes the first one on and gives its processes time of its own
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt


def _launched() -> bool:
    """Whether torchrun (accelerate's too) started this process; a run that a shell started may outlive its shell."""
    return "TORCHELASTIC_RUN_ID" in os.environ


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
        if len(self._recent) < _WINDOW:
            return
        now = sum(self._recent) / _WINDOW
        self._best = max(self._best, now)
        if self._best > 0 and now < _SHARE * self._best:
            self._warned = True
            print(
                f"dqo: step {state.global_step}: quality is {now:.2g} on average of the last {_WINDOW} logged steps "
                f"and was {self._best:.2g}, with alpha {alpha:.3g}: being different may have become worth more than "
                "being good; if it does not rise again, lower alpha, or let it rise later with alpha_warmup_steps.",
                file=sys.stderr,
            )


class TemplateWarning:
    """Warns once of prompts that reach a chat model as plain text, without the template that it was tuned with.

    Args:
        tokenizer: the policy's tokenizer or processor.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer if getattr(tokenizer, "chat_template", None) else None

    def look(self, rows: list[dict[str, Any]]) -> None:
        """Look at the rows of a batch, until one was warned of."""
        plain = [row["prompt"] for row in rows if isinstance(row.get("prompt"), str)]
        if self._tokenizer is None or all(map(self._is_rendered, plain)):
            return
        self._tokenizer = None
        logger.warning(
            "dqo: the prompts are strings, so the model reads them without its chat template; pass them as messages, "
            '[{"role": "user", "content": ...}], unless the model shall continue plain text.'
        )

    def _is_rendered(self, prompt: str) -> bool:
        """Whether a prompt holds tokens that only a template writes."""
        tokenizer = getattr(self._tokenizer, "tokenizer", self._tokenizer)  # of a processor
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return bool(set(ids) & set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})


def check_settings(args: Any, wanted: type) -> None:
    """Refuses settings of another class than `wanted`, and several GPUs, before the policy is loaded."""
    if not isinstance(args, wanted) or args.centres_groups != wanted.centres_groups:  # PPO's are a kind of GRPO's
        name = wanted.__name__
        raise RecipeError(f"this trainer needs a {name}, got {type(args).__name__}; pass args={name}(...).")
    check_one_device(args)
    check_sharded_reference(args.beta)


def check_sharded_reference(beta: float) -> None:
    """Refuses a reference model under FSDP 2 whose weights would be 0 on all processes but the first."""
    # Older transformers leave the others zeros, to be filled from the first; TRL fills the policy's, but not these.
    zeros = is_fsdp_enabled() and os.environ.get("FSDP_VERSION") == "2" and Version(transformers) < Version("5.23")
    if beta and zeros:
        raise RecipeError(
            f"`beta` under FSDP 2 needs transformers 5.23 or later, got {transformers}, with which the reference model "
            "is wrong; update it, or set `fsdp_cpu_ram_efficient_loading: false` in the file of `accelerate launch`."
        )


def check_one_device(args: Any) -> None:
    """Refuses several GPUs in one process, over which torch's DataParallel would split the groups of each batch.

    Args:
        args: settings of a trainer.

    Raises:
        RecipeError: more than one GPU and no launcher.
    """
    if args.n_gpu > 1:
        raise RecipeError(
            f"expected one GPU per process, got {args.n_gpu} visible ones and no launcher; start with `accelerate "
            f"launch --multi_gpu --num_processes {args.n_gpu} -m dqo train ...`, or set CUDA_VISIBLE_DEVICES=0."
        )


def check_trainable(model: Any, peft_config: Any) -> None:
    """Rejects policies that cannot be trained as given: frozen weights, or an adapter that a new one would replace.

    Args:
        model: policy, as TRL takes it; TRL checks one that is given by name.
        peft_config: settings of the adapter to train, or None.

    Raises:
        RecipeError: no weight to train, or two adapters.
    """
    if not isinstance(model, torch.nn.Module):
        return
    remedy = "merge it into its base (merge_and_unload of peft), save that and train from there"
    if peft_config is not None and getattr(model, "_hf_peft_config_loaded", False):
        raise RecipeError(
            f"expected a policy without an adapter beside `peft_config`, whose additions would take its place, got one "
            f"that was loaded with it; {remedy}."
        )
    if peft_config is None and not any(weight.requires_grad for weight in model.parameters()):
        raise RecipeError(
            "expected a policy with weights to train, got one whose weights are all frozen; pass `peft_config`, or "
            f"set requires_grad; if it was loaded from an adapter, {remedy}."
        )


def check_named(model: Any, funcs: list, args: Any, peft_config: Any) -> None:
    """Refuses policies, references and reward models that TRL would load by name with random weights.

    Args:
        model: policy, as TRL takes it.
        funcs: rewards, as TRL takes them.
        args: settings of the trainer.
        peft_config: settings of the adapter to train, or None.

    Raises:
        ModelError: names the model and the first missing weights.
    """
    options = {key: value for key, value in (args.model_init_kwargs or {}).items() if key in ("revision", "token")}
    if isinstance(model, str):
        check_files(model, **options)
    elif args.beta and peft_config is None and model.config.name_or_path:  # the reference
        check_files(model.config.name_or_path)
    for func in funcs:
        if isinstance(func, str):
            check_files(func, loader=AutoModelForSequenceClassification, num_labels=1, **options)
