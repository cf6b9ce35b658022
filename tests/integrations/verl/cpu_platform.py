"""verl on a CPU, for tests only: a platform, a rollout on plain transformers, and patches where verl insists on CUDA.

Loaded in every process of a run through VERL_USE_EXTERNAL_MODULES, before verl imports what is patched here. Besides
two supported registries, four private names of verl 0.9.1 are replaced.
"""

import functools
from contextlib import contextmanager, nullcontext

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


class CPUModule:
    """What verl asks of `torch.cuda`, on a CPU."""

    def __getattr__(self, name):
        return getattr(torch.cpu, name)

    def _nothing(self, *args, **kwargs):
        return None

    empty_cache = ipc_collect = synchronize = set_device = manual_seed = manual_seed_all = _nothing
    reset_peak_memory_stats = set_per_process_memory_fraction = _nothing

    def is_available(self):
        return True

    def device_count(self):
        return 1

    def current_device(self):
        return "cpu"

    def get_device_name(self, *args):
        return "cpu"

    def mem_get_info(self, *args):
        return 2**33, 2**34

    def memory_allocated(self, *args):
        return 0

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def get_rng_state(self, *args):
        return torch.get_rng_state()

    def set_rng_state(self, state, *args):
        torch.set_rng_state(state)


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = CPUModule()

    def is_available(self):
        return True

    def current_device(self):
        return "cpu"

    def device_count(self):
        return 1

    def set_device(self, device_index):
        pass

    def synchronize(self, device_index=None):
        pass

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings):
        pass

    def empty_cache(self):
        pass

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg):
        with nullcontext():
            yield

    def profiler_start(self):
        pass

    profiler_stop = profiler_start

    def ray_resource_name(self):
        return "GPU"  # verl counts nothing else; the run gives Ray as many logical ones as it has ranks

    def ray_noset_envvars(self):
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self):
        return False

    def cudart(self):
        return None


def _load_hf_replica():
    from hf_rollout import HFReplica

    return HFReplica


def _load_valuehead_model(local_path, torch_dtype, model_config, trust_remote_code):
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(
        local_path, dtype=torch_dtype, config=model_config, attn_implementation="sdpa"
    )


def _patch():
    """After the platform is registered, for some of these modules ask for it; before anyone copies the names."""
    from verl.utils import distributed, import_utils, model

    # Where TRL is installed, verl's FSDP engine patches a class of it that TRL 1.16 no longer has.
    import_utils.is_trl_available = lambda: False

    initialize = distributed.initialize_global_process_group_ray

    @functools.wraps(initialize)
    def initialize_with_gloo(timeout_second=None, backend=None):
        return initialize(timeout_second, backend or "gloo")  # torch refuses verl's own "cpu:gloo,cpu:gloo"

    distributed.initialize_global_process_group_ray = initialize_with_gloo
    model.load_valuehead_model = _load_valuehead_model

    from verl.workers.rollout import base, replica

    replica.RolloutReplicaRegistry.register("hf", _load_hf_replica)
    base._ROLLOUT_REGISTRY["hf", "async"] = "hf_rollout.HFAdapter"


_patch()
