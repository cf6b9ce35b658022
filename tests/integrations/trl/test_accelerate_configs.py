"""The shipped configs of accelerate, read as `accelerate launch` reads them, say to every process what they promise."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

FOLDER = Path(__file__).parents[3] / "recipes" / "accelerate"
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",  # or checkpoints/final would hold shards
}
PROMISED = {
    "ddp": {},
    "fsdp": SHARDED,
    "deepspeed_zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "deepspeed_zero3": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
    },
}


def launched(name):
    """What `accelerate launch` makes of a config: its arguments, and the environment it gives to every process."""
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(FOLDER / f"{name}.yaml"), "-m", "dqo", "train", "recipe.yaml"])
    args.nondefault = {"config_file"}
    args, _, _ = _validate_launch_command(args)
    if args.use_deepspeed:
        fields = load_config_from_file(args.config_file).deepspeed_config
        args.deepspeed_fields_from_accelerate_config = ",".join(fields)
        return args, prepare_deepspeed_cmd_env(args)[1]
    return args, prepare_multi_gpu_env(args)


def test_every_config_that_is_shipped_is_known_here():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_a_config_reaches_the_processes(name):
    args, environment = launched(name)
    assert (args.num_processes, args.num_machines, args.mixed_precision) == (8, 1, "bf16")
    assert args.multi_gpu == (name == "ddp")
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert {key: environment.get(key) for key in PROMISED[name]} == PROMISED[name]


@pytest.mark.parametrize("name", PROMISED)
def test_accelerate_knows_every_key(name):
    """A misspelt key would be carried along and do nothing."""
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    known = vars(launch_command_parser().parse_args(["script"]))
    for section in ("fsdp_config", "deepspeed_config"):
        assert set(getattr(config, section)) <= set(known), section
