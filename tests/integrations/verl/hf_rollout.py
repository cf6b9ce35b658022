"""Rollouts on plain transformers behind verl's server interface, for tests only."""

import os

import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

FAIL_EVERY = int(
    os.environ.get("HF_ROLLOUT_FAIL_EVERY", "0")
)  # every so many generations raise, to leave ragged groups


class HFServer:
    """One model that generates one response at a time."""

    def __init__(self, path, rank, length):
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path).eval()
        self.generator, self.length, self.step, self.calls = torch.Generator().manual_seed(rank), length, 0, 0

    @torch.no_grad()
    def generate(self, prompt_ids, sampling_params, request_id, **kwargs):
        self.calls += 1
        if FAIL_EVERY and self.calls % FAIL_EVERY == 0:
            raise RuntimeError("a generation that fails on purpose")
        ids, logps = torch.tensor([prompt_ids]), []
        for _ in range(self.length):
            drawn_from = self.model(ids).logits[0, -1].float().log_softmax(-1)  # (V,)
            token = torch.multinomial(drawn_from.exp(), 1, generator=self.generator)
            ids, logps = torch.cat([ids, token[None]], dim=1), [*logps, drawn_from[token].item()]
            if token.item() == self.model.config.eos_token_id:
                break
        return TokenOutput(
            token_ids=ids[0, len(prompt_ids) :].tolist(),
            log_probs=logps,
            stop_reason="completed",
            extra_fields={"global_steps": self.step},
        )

    def load(self, weights, step):
        """New weights, all of them or an error."""
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        if unexpected or [name for name in missing if name != "lm_head.weight"]:
            raise RuntimeError(f"weights do not fit: missing {missing}, unexpected {unexpected}")
        self.step = step or 0

    def nothing(self, *args, **kwargs):
        """Sleeping and waking mean nothing on a CPU."""

    wake_up = sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = nothing
    abort_all_requests = resume_generation = start_profile = stop_profile = nothing


class HFReplica(RolloutReplica):
    async def launch_servers(self):
        name = f"hf_server_{self.replica_rank}"
        server = ray.remote(HFServer).options(name=name, num_cpus=0)
        self.servers = [server.remote(self.model_config.path, self.replica_rank, self.config.response_length)]
        self._server_handle, self._server_address = self.servers[0], name


class HFAdapter(BaseRollout):
    """The side of the rollout that lives in the training process."""

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, global_steps=None, **kwargs):
        full = {name: tensor.detach().float().cpu().clone() for name, tensor in weights}
        await ray.get_actor(f"hf_server_{os.environ['RANK']}").load.remote(full, global_steps)
