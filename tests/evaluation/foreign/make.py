"""Writes the files of this folder by the tools themselves, all of the same responses, those of said.json.

    python make.py inspect      # each in an environment of its own; inspect_ai 0.3.285
    python make.py lm-eval      # lm_eval 0.4.13
    python make.py trl          # trl 1.16.0

The others (openai-batch, noveltybench, verl) need a service or GPUs; the tests write them as those tools do.
"""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SAID = json.loads((HERE / "said.json").read_text())


def make_inspect():
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.log import write_eval_log
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import match

    ends, left = {"eos": "stop", "length": "max_tokens"}, {group["prompt"]: iter(_answers(group)) for group in SAID}

    def answer(messages, *_):
        text, end = next(left[messages[-1].text])
        output = ModelOutput.from_content("mockllm/model", text, ends[end])
        output.usage = ModelUsage(input_tokens=1, output_tokens=1)
        return output

    samples = [Sample(input=group["prompt"], target=group["reference"], id=group["id"]) for group in SAID]
    with tempfile.TemporaryDirectory() as folder:
        [log] = eval(
            Task(dataset=samples, scorer=match(numeric=True), name="said"), temperature=1.0, max_tokens=64, epochs=4,
            model=get_model("mockllm/model", custom_outputs=answer), log_dir=folder, display="none",
        )  # fmt: skip
        log.eval.revision = None
        for sample in log.samples:  # what no reader of responses looks at
            sample.events = []
        write_eval_log(log, str(HERE / "inspect.eval"), format="eval")
        write_eval_log(log, str(HERE / "inspect.json"), format="json")


def make_lm_eval():
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Said(LM):
        def generate_until(self, requests, disable_tqdm=False):
            left = {group["prompt"]: iter(group["responses"]) for group in SAID}
            return [next(left[request.args[0]]) for request in requests]

        loglikelihood = loglikelihood_rolling = generate_until

    with tempfile.TemporaryDirectory() as folder:
        rows = [{"question": group["prompt"], "answer": group["reference"]} for group in SAID]
        Path(folder, "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        Path(folder, "said.yaml").write_text(
            "task: said\ndataset_path: json\noutput_type: generate_until\ntest_split: test\n"
            f"dataset_kwargs: {{data_files: {{test: {folder}/said.jsonl}}}}\n"
            "doc_to_text: '{{question}}'\ndoc_to_target: answer\nrepeats: 4\n"
            "generation_kwargs: {until: [], do_sample: true, temperature: 1.0, max_gen_toks: 64}\n"
            "metric_list: [{metric: bypass}]\n"
            "filter_list:\n"
            "- {name: first, filter: [{function: take_first}]}\n"
            "- {name: again, filter: [{function: take_first}]}\n"
        )
        tasks = TaskManager(include_path=folder, include_defaults=False)
        found = simple_evaluate(Said(), tasks=["said"], task_manager=tasks, log_samples=True)
        tracker = EvaluationTracker(output_path=f"{folder}/results.json")
        tracker.save_results_aggregated(found, found["samples"])
        tracker.save_results_samples("said", found["samples"]["said"])
        [path] = Path(folder).rglob("samples_said_*.jsonl")
        (HERE / "lm-eval.jsonl").write_bytes(path.read_bytes())


def make_trl():
    from datasets import Dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    letters = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    left = {group["prompt"]: iter(group["responses"]) for group in SAID}
    scores = {(group["prompt"], text): score for group in SAID for text, score in
              zip(group["responses"], group["rewards"], strict=True)}  # fmt: skip

    def right(prompts, completions, **columns):
        return [scores[pair] for pair in zip(prompts, completions, strict=True)]

    class Said(GRPOTrainer):
        def _generate_single_turn(self, prompt_ids, *rest, **more):
            texts = [next(left[tokenizer.decode(ids, skip_special_tokens=True)]) for ids in prompt_ids]
            return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts], None

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape))
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            folder, per_device_train_batch_size=8, num_generations=4, max_steps=1, logging_steps=1, report_to=[],
            use_cpu=True, bf16=False, log_completions=True, max_completion_length=64, shuffle_dataset=False,
        )  # fmt: skip
        data = Dataset.from_list([{"prompt": group["prompt"]} for group in SAID])
        Said(model, right, settings, train_dataset=data, processing_class=tokenizer).train()
        [path] = Path(folder).rglob("completions_*.parquet")
        (HERE / "trl.parquet").write_bytes(path.read_bytes())


def _answers(group):
    return list(zip(group["responses"], group["finish"], strict=True))


if __name__ == "__main__":
    {"inspect": make_inspect, "lm-eval": make_lm_eval, "trl": make_trl}[sys.argv[1]]()
