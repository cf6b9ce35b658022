"""Writes what a training step left in TransferQueue to a file, through verl's own callback seam."""

import json
from pathlib import Path

import transfer_queue as tq
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

FIELDS = ("responses", "response_mask", "rm_scores", "advantages", "returns", "values", "token_level_rewards")
LOGPS = ("old_log_probs", "rollout_log_probs")


class Recorder(CheckpointCallback):
    """One JSON file a step beside the checkpoint: {key: {field: [number a token], "is_padding": bool}}."""

    def on_save(self, trainer, global_step, checkpoint_dir, **kwargs):
        """Called after the update and before verl clears the step's rows."""
        tags = {key: tag for key, tag in tq.kv_list("train")["train"].items() if not tag.get("is_prompt")}
        keys = list(tags)
        names = [*FIELDS, *LOGPS]
        if not trainer.use_critic:
            names.remove("values")
        data = tq.kv_batch_get(keys=keys, partition_id="train", select_fields=names)
        rows = {key: {"is_padding": bool(tags[key].get("is_padding"))} for key in keys}
        for name in names:
            for key, values in zip(keys, data[name].unbind(), strict=True):
                rows[key][name] = values.float().tolist()
        folder = Path(self.config.trainer.default_local_dir)
        (folder / f"step{global_step}.json").write_text(json.dumps(rows))
