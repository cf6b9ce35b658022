"""Which errors are told as the host's refusal of settings, and which stay the bugs they are."""

from pathlib import Path

import pytest

import dqo
from dqo.errors import DQOError, RecipeError
from dqo.train.failures import refusals_told

OURS = str(Path(dqo.__file__).parent / "cli" / "made_up.py")
BAD_VALUE = "from transformers import TrainingArguments\nTrainingArguments('out', save_strategy='sometimes')"
NOT_OFFERED = "from transformers import TrainingArguments\nTrainingArguments('out', accelerator_config=dict)"
NO_PACKAGE = (
    "from transformers import TrainerCallback\nfrom transformers.utils import requires_backends\n"
    "exec(compile('class Part:\\n def __init__(self, check): check(int, [\"detectron2\"])', "
    "'/site-packages/trl/part.py', 'exec'))\nPart(requires_backends)"
)
NO_LOGGER = "from transformers.integrations.integration_utils import WandbCallback\nWandbCallback()"


def run(code, **settings):
    """Run a text as if it stood in a file of the package."""
    with refusals_told(**settings):
        exec(compile(code, OURS, "exec"), {})


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (BAD_VALUE, "ValueError: sometimes is not a valid"),
        (NO_LOGGER, "RuntimeError: WandbCallback requires wandb"),
        (NOT_OFFERED, "NotImplementedError: Tried passing in a callable"),
        (NO_PACKAGE, "ImportError: int requires the detectron2"),
    ],
)
def test_what_the_host_raises_about_settings_is_told_until_a_step_is_done(code, told):
    with pytest.raises(RecipeError, match=rf"^trainer: TRL refuses these settings: {told}.*; change them\.$"):
        run(code)
    with pytest.raises((ValueError, RuntimeError, ImportError), match=told.split(": ")[1]) as caught:
        run(code, started=lambda: True)
    assert not isinstance(caught.value, DQOError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("int('four')", ValueError),  # raised where our code stands
        ("import json\njson.loads('no JSON')", ValueError),  # in a library that our code called
        ("import torch\ntorch.ones(2).expand('x')", TypeError),
        ("import torch\ntorch.ones(2) @ torch.ones(3)", RuntimeError),
        ("from transformers import AutoConfig\nAutoConfig.for_model('no_such_kind')", ValueError),  # takes no settings
        ("from transformers.utils import requires_backends\nrequires_backends(int, ['detectron2'])", ImportError),
        ("import no_such_package", ModuleNotFoundError),  # which the command line tells by itself
        ("[][1]", IndexError),
    ],
)
def test_bugs_keep_their_traceback(code, kind):
    with pytest.raises(kind) as caught:
        run(code)
    assert not isinstance(caught.value, DQOError)


def test_our_own_errors_pass_unchanged():
    with pytest.raises(DQOError, match=r"^as it is$") as caught:
        run("from dqo.errors import DQOError\nraise DQOError('as it is')")
    assert type(caught.value) is DQOError


def test_our_code_that_the_host_called_back_is_ours():
    """Between the error and the host stands one of our frames again."""
    code = (
        "from transformers import TrainerState\n"
        "from transformers.trainer_callback import CallbackHandler, TrainerCallback\n"
        "class Ours(TrainerCallback):\n"
        "    def on_log(self, *args, **kwargs):\n"
        "        int('four')\n"
        "handler = CallbackHandler([Ours()], None, None, None, None)\n"
        "handler.call_event('on_log', None, TrainerState(), None)\n"
    )
    with pytest.raises(ValueError, match="invalid literal") as caught:
        run(code)
    assert not isinstance(caught.value, DQOError)
