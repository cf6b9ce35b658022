"""Measures the repeats of an lm-eval task as groups: dqo's metrics stand beside the task's own.

In the YAML of a task: `class: !function dqo.integrations.lm_eval.DiverseTask`, `repeats: 8`, options under `dqo:`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask

from dqo.embedders import load_embedder
from dqo.errors import RecipeError, check_choice
from dqo.evaluation.definitions import explain, headline, shown_in
from dqo.evaluation.metrics import prompt_values
from dqo.files.records import Group
from dqo.rewards.calling import finite_number
from dqo.settings import DEFAULT_ENCODER
from dqo.settings.checking import Strict, check

NAME = "dqo"  # where the options stand, and the filter under which lm-eval shows the metrics


class _Options(Strict):
    encoder: str = DEFAULT_ENCODER
    heldout_encoder: str | None = None
    filter: str | None = None
    metric: str | None = None


class DiverseTask(ConfigurableTask):
    """A task of lm-eval whose repeats are also measured as groups, by every metric of `dqo eval`.

    Diversity is that of whole responses, quality the task's own metric of each response. Two right responses are the
    same answer, for `distinct_right@k`, where the task's filter makes the same text of them.

    Args:
        config: The YAML.

    Raises:
        RecipeError: Fewer than two repeats, no text, or options that do not exist.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        own = {name: value for name, value in config.items() if name != "class"}
        origin = f"task {own.get('task')!r}"
        given = check(_Options, own.pop(NAME, None) or {}, f"{origin}, {NAME}")
        super().__init__(config=own)
        if self.config.output_type != "generate_until" or self.config.repeats < 2:
            raise RecipeError(
                f"{origin}: expected output_type generate_until and `repeats` of at least 2, got "
                f"{self.config.output_type} and {self.config.repeats}; set `repeats: 8` and `do_sample: true`."
            )
        pipelines = {pipeline.name: pipeline for pipeline in self._filters}
        chosen, self._metric = given.filter or next(iter(pipelines)), given.metric or next(iter(self._metric_fn_list))
        check_choice(f"{origin}, {NAME}.filter", chosen, pipelines, RecipeError)
        check_choice(f"{origin}, {NAME}.metric", self._metric, self._metric_fn_list, RecipeError)
        self._pipeline = pipelines[chosen]
        self._encoders = [load_embedder(name) if name else None for name in (given.encoder, given.heldout_encoder)]
        self._measured: list[str] = []

    def apply_filters(self) -> None:
        """Applies the task's own filters, then measures all groups at once."""
        super().apply_filters()
        groups, answers = [], {}
        for number, instance in enumerate(self._instances):
            found, rewards = zip(*self._rated(instance), strict=True)
            texts, scores = list(instance.resps), None if None in rewards else list(rewards)
            groups.append(Group(str(number), instance.args[0], [], texts, ["unknown"] * len(texts), scores, {}))
            answers |= {(str(number), text): answer for text, answer in zip(texts, found, strict=True)}
        values = prompt_values(groups, *self._encoders, answer_key=lambda asked, text: answers[asked.id, text.sampled])
        shown = {*headline(values), *shown_in(values, "report")}
        self._measured = [name for name in values if name in shown]
        for number, instance in enumerate(self._instances):
            row = {name: values[name][number] for name in self._measured}
            instance.filtered_resps[NAME] = {name: value for name, value in row.items() if value is not None}

    def _rated(self, instance: Instance) -> Iterator[tuple[str, float | None]]:
        """The answer that each response gives and its reward, by the task's own filter and metric."""
        for text in instance.resps:
            alone = replace(instance, resps=[text], filtered_resps={})
            self._pipeline.apply([alone])
            answer = alone.filtered_resps[self._pipeline.name]
            yield str(answer), finite_number(super().process_results(instance.doc, [answer])[self._metric])

    def process_results(self, doc: dict, results: list) -> dict[str, Any]:
        """The metrics of a document: those measured under the filter `dqo`, else the task's own."""
        return results[0] if isinstance(results[0], dict) else super().process_results(doc, results)

    def aggregation(self) -> dict[str, Any]:
        """Means over the documents where a metric is defined."""
        return dict.fromkeys(self._measured, mean) | super().aggregation()

    def higher_is_better(self) -> dict[str, bool]:
        """The direction of each metric that has one."""
        better = {name: explain(name).better for name in self._measured}
        return {name: found == "higher" for name, found in better.items() if found} | super().higher_is_better()
