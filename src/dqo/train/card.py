"""The model card beside a final checkpoint: what a run was made of and how it went, from the files of its folder."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dqo.evaluation.compare import with_interval
from dqo.evaluation.definitions import PANEL, explain, headline
from dqo.files.jsonio import read_text
from dqo.files.records import write_text
from dqo.files.run import RunPaths, read_steps
from dqo.settings.yaml import read_yaml_file, to_yaml
from dqo.train.folder import model_source, run_of
from dqo.train.recipe import flat_settings, nested_settings, recipe_model

CARD = "README.md"
_STRETCHES = 10  # lines of the table of a training
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_EVALUATION = re.compile(r"(?<=^## Evaluation\n).*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_PAPER = "https://arxiv.org/abs/2509.04784"
_CARD = """---
{head}---

# {name}

{made}

## Load it

```python
from transformers import pipeline

ask = pipeline("text-generation", model=".")  # this folder, or its name on the hub
answers = ask(
    {question},
    num_return_sequences=10,
    do_sample=True,
    temperature={temperature},  # as in training: all of the distribution, so that answers may differ
    top_k=0,
    max_new_tokens={length},
    return_full_text=False,
)
```

## Training

{machine}

{curves}

The recipe, without what is a default. `dqo train recipe.yaml output_dir=outputs/again` runs it again.

```yaml
{recipe}```

## Evaluation

None yet: `dqo eval --model` of the run's folder, with `--out` inside of it, puts it here.

## Limits

The training paid for what its rewards measure, and for nothing else. Licence and limits of the base model hold for this
model too.
"""


def write_card(run: RunPaths, checkpoint: Path) -> None:
    """Writes the card of a run's policy into the folder of its checkpoint, in the Markdown that model hubs read."""
    config, resolved = read_yaml_file(run.config), read_yaml_file(run.resolved)
    trainer, steps = config["trainer"], read_steps(run.metrics)
    head = {
        **({"base_model": config["model"]} if _on_hub(config["model"]) else {}),
        "library_name": "peft" if config["lora"] else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["dqo", "trl", config["algorithm"]],
    }
    card = _CARD.format(
        head=to_yaml(head),
        name=run.path.resolve().name,
        made=_made(config),
        question=_question(config["system_prompt"], chat=(checkpoint / "chat_template.jinja").exists()),
        temperature=trainer["temperature"],
        length=trainer["max_completion_length"],
        machine=_machine(config, resolved, steps),
        curves=_curves(steps),
        recipe=to_yaml(_given(config)),
    )
    write_text(checkpoint / CARD, card)


def add_evaluations(model: str, out: str | Path, documents: Sequence[Mapping[str, Any]]) -> None:
    """Puts evaluations of a run's final policy, the metrics.json of each, into its card; the rest stays as it is.

    Other models are passed over, and so are evaluations outside of the run, which are somebody's own.
    """
    run = run_of(model)
    if run is None or not Path(out).resolve().is_relative_to(run.path.resolve()):
        return
    card = run.final / CARD
    if card.is_file() and Path(model_source(model)).expanduser().samefile(run.final):
        text = read_text(card, "model card")
        write_text(card, _EVALUATION.sub(lambda _: f"\n{_evaluation(documents)}\n\n", text))


def _on_hub(model: str) -> bool:
    # A hub refuses a card whose base model is a folder.
    return bool(_HUB_NAME.fullmatch(model)) and not Path(model).expanduser().exists()


def _made(config: Mapping[str, Any]) -> str:
    """Base model, task, method and what diversity was paid."""
    base = f"[{config['model']}](https://huggingface.co/{config['model']})"
    base = base if _on_hub(config["model"]) else f"`{config['model']}`"
    made = f"{base}, post-trained on the task `{config['task']}` with {config['algorithm'].upper()}"
    if config["alpha"] == 0 or config["diversity"] == "none":
        return f"{made} by `dqo`. Diversity was not paid (alpha 0)."
    return (
        f"{made} and Diversity Quality Optimization ([arXiv 2509.04784]({_PAPER})): samples to one prompt are to be "
        f"different good answers. Diversity: `{config['diversity']}`, alpha {config['alpha']}, combined by "
        f"`{config['combine']}`, similarity by `{config['encoder']}`."
    )


def _question(system: str | None, chat: bool) -> str:
    prompt = "Your prompt"
    messages = [{"role": "system", "content": system}] if system else []
    return repr([*messages, {"role": "user", "content": prompt}] if chat else prompt)


def _machine(config: Mapping[str, Any], resolved: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
    facts = {
        "steps": steps[-1]["step"] if steps else 0,
        "responses per prompt": config["trainer"]["num_generations"],
        "seed": config["seed"],
        "machine": resolved["device_name"],
        "processes": resolved["processes"],
        "versions": ", ".join(f"{name} {version}" for name, version in resolved["versions"].items()),
        "digest of the prompts": f"`{resolved['prompts']}`",
    }
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def _curves(steps: Sequence[Mapping[str, Any]]) -> str:
    """The numbers that a terminal shows during a training, as means of up to ten stretches of it."""
    names = [name for name in PANEL if any(row.get(name) is not None for row in steps)]
    size = -(-len(steps) // _STRETCHES) or 1
    rows = []
    for first in range(0, len(steps), size):
        stretch = steps[first : first + size]
        values = [[row[name] for row in stretch if row.get(name) is not None] for name in names]
        means = [f"{sum(column) / len(column):.3f}" if column else "–" for column in values]
        rows.append([str(stretch[-1]["step"]), *means])
    return _table(["up to step", *(explain(name).label for name in names)], rows)


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are no default, nested as in a recipe, without the folder of this machine."""
    defaults = recipe_model(config["algorithm"])(task="", output_dir=config["output_dir"], trainer={})
    usual = flat_settings(dict(defaults) | {"trainer": dict(defaults.trainer)}, "defaults")
    settings = flat_settings(config, "config.yaml")
    kept = {name: value for name, value in settings.items() if name not in usual or usual[name] != value}
    return nested_settings({"task": config["task"]} | kept)


def _evaluation(documents: Sequence[Mapping[str, Any]]) -> str:
    """Means with their intervals, a column per evaluation; then what a reader of the numbers must know."""
    names = headline(name for document in documents for name in document["metrics"])
    heads = [
        f"temperature {(document.get('sampling') or {}).get('temperature', '–')}, {document['n_prompts']} prompts × "
        f"{document['n_samples']} responses"
        for document in documents
    ]
    rows = [
        [f"{explain(name).label} (`{name}`)", *(with_interval(document["metrics"].get(name)) for document in documents)]
        for name in names
    ]
    first = documents[0]
    judges = {part: first.get(part) for part in ("task", "encoder", "heldout_encoder", "equivalence", "protocol")}
    by = ", ".join(f"{part.replace('_', '-')} `{name}`" for part, name in judges.items() if name)
    notes = dict.fromkeys(note for document in documents for note in document.get("notes", []))
    # A note may quote a server: as text, not as markup.
    listed = "".join(f"\n- {note.replace('<', '&lt;')}" for note in notes)
    return f"Mean [95 % interval over prompts]; {by}.\n\n{_table(['metric', *heads], rows)}" + (
        listed and f"\n{listed}"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
