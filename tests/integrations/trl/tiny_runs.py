"""Trainings of a tiny policy that many tests share: prompts, settings, rewards, a trainer that keeps its batches."""

PROMPTS = ["the dog", "a cat near the river", "red house", "old tree"]
COMMON = {
    "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6, "max_steps": 1, "beta": 0.0,
    "bf16": False, "use_cpu": True, "report_to": [], "save_strategy": "no", "learning_rate": 1e-2, "encoder": "hashed",
}  # fmt: skip


def share_of_short_words(completions, **kwargs):
    return [sum(len(w) <= 3 for w in c.split()) / max(1, len(c.split())) for c in completions]


def all_equal(completions, **kwargs):
    return [1.0] * len(completions)


def second_is_unscorable(completions, **kwargs):
    return [None if i == 1 else 0.5 for i in range(len(completions))]


def recorder(trainer_class):
    """A trainer that keeps its newest reward table, completions, tokens and scored batch."""

    class Recorder(trainer_class):
        def _calculate_rewards(self, inputs, prompts, completions, ids):
            self.table = super()._calculate_rewards(inputs, prompts, completions, ids)
            self.completions, self.ids = completions, ids
            return self.table

        def _generate_and_score_completions(self, inputs):
            self.batch = super()._generate_and_score_completions(inputs)
            return self.batch

    return Recorder
