#!/usr/bin/env bash
# GRPO with diversity on one node. Overrides of your own come last: bash recipes/verl/grpo_one_node.sh dqo.alpha=0.3
set -euo pipefail
MODEL=${MODEL:-Qwen/Qwen2.5-0.5B-Instruct}
DATA=${DATA:-$HOME/data/gsm8k}      # train.parquet and test.parquet in verl's format
GPUS=${GPUS:-8}                     # of this node; verl takes them whole
ROLLOUT=${ROLLOUT:-vllm}            # or sglang

# norm_adv_by_std_in_grpo=false: a group's own std would blow the credit up wherever task rewards tie.
# The encoder runs on CPUs: embedding short answers costs little beside generation; watch timing_s/diversity.
python -m dqo.integrations.verl.main \
  trainer.v1.trainer_mode=dqo_sync \
  +dqo.alpha=0.5 \
  +dqo.combine=quality_weighted \
  +dqo.encoder=all-MiniLM-L6-v2 \
  +dqo.encoder_cpus=4 \
  algorithm.adv_estimator=grpo \
  algorithm.norm_adv_by_std_in_grpo=false \
  data.train_files="$DATA/train.parquet" \
  data.val_files="$DATA/test.parquet" \
  data.train_batch_size=256 \
  data.max_prompt_length=512 \
  data.max_response_length=1024 \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.actor.strategy=fsdp2 \
  actor_rollout_ref.actor.optim.lr=1e-6 \
  actor_rollout_ref.actor.ppo_mini_batch_size=64 \
  actor_rollout_ref.actor.use_dynamic_bsz=true \
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384 \
  actor_rollout_ref.actor.use_kl_loss=true \
  actor_rollout_ref.actor.kl_loss_coef=0.001 \
  actor_rollout_ref.rollout.name="$ROLLOUT" \
  actor_rollout_ref.rollout.n=8 \
  actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
  actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
  actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=true \
  actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=16384 \
  actor_rollout_ref.ref.log_prob_use_dynamic_bsz=true \
  actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=16384 \
  trainer.n_gpus_per_node="$GPUS" \
  trainer.nnodes=1 \
  trainer.total_epochs=1 \
  trainer.save_freq=20 \
  trainer.test_freq=10 \
  trainer.project_name=dqo \
  trainer.experiment_name=grpo \
  'trainer.logger=[console]' \
  "$@"
