#!/usr/bin/env bash
# The story in one script: a base model, reward-only GRPO and DQO, compared on prompts none of them was trained on.
#   SEED=1 make demo             another seed, other numbers
#   TASK=concepts make demo      sentences from given words instead of cities; takes longer
#   MODEL=owner/name make demo   any causal language model of the hub or a folder
# Interrupted? The same command goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
SEED=${SEED:-0}
TASK=${TASK:-cities}
MODEL=${MODEL:-HuggingFaceTB/SmolLM2-135M-Instruct}
PROMPTS=${PROMPTS:-30}
# A folder of its own for each model, task and seed; the number tells owner/name from owner-name.
name=""
if [ "$MODEL" != HuggingFaceTB/SmolLM2-135M-Instruct ]; then
  name=-$(basename "$MODEL" | tr -c 'A-Za-z0-9._\n' -)-$(printf %s "$MODEL" | cksum | cut -d ' ' -f 1)
fi
OUT=${OUT:-outputs/demo-$TASK$name-seed$SEED}
export TOKENIZERS_PARALLELISM=false
case "$TASK" in
  cities) asked=(--task cities --max-new-tokens 24) ;;
  concepts) asked=(--task concepts --task-option words=3 --max-new-tokens 28) ;;
  *) echo "demo: TASK must be cities or concepts, got $TASK; train others by their recipe, see recipes/" >&2; exit 2 ;;
esac

train() { # folder, overrides
  dqo train "recipes/$TASK.yaml" --resume model="$MODEL" seed="$SEED" output_dir="$OUT/$1" "${@:2}"
}
evaluate() { # folder, model
  dqo eval --model "$2" "${asked[@]}" --split test --limit "$PROMPTS" --n 10 --seed "$SEED" \
    --out "$OUT/$1/eval" --batch-size 100 \
    --encoder all-MiniLM-L6-v2 --heldout-encoder paraphrase-MiniLM-L3-v2
}

# Without a GPU the cores are divided: two runs side by side keep them busier than one run that spreads small products.
train_both() {
  local cores; cores=$(getconf _NPROCESSORS_ONLN)
  if [ "$cores" -lt 2 ] || python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    train reward-only alpha=0
    train dqo
    return
  fi
  export OMP_NUM_THREADS=$((cores / 2))
  mkdir -p "$OUT"
  train reward-only alpha=0 >"$OUT/reward-only.log" 2>&1 &
  local other=$! failed=0
  trap 'kill "$other" 2>/dev/null || true' EXIT
  echo "dqo: reward-only and DQO train side by side; below is DQO, the other writes to $OUT/reward-only.log"
  train dqo || failed=1
  wait "$other" || { tail -n 5 "$OUT/reward-only.log" >&2; failed=1; }
  trap - EXIT
  unset OMP_NUM_THREADS
  return "$failed"
}

start=$SECONDS
dqo doctor || true
evaluate base "$MODEL"
train_both
evaluate reward-only "$OUT/reward-only"
evaluate dqo "$OUT/dqo"
mkdir -p "$OUT/compare"
dqo compare "$OUT/base/eval" "$OUT/reward-only/eval" "$OUT/dqo/eval" --out "$OUT/compare" >"$OUT/compare/compare.txt"
dqo report "$OUT/base/eval" "$OUT/reward-only" "$OUT/dqo" --output "$OUT/report.html"
echo
python runs/side_by_side.py "$OUT" "$TASK" "$SEED"
echo
echo "Took $(((SECONDS - start) / 60)) min $(((SECONDS - start) % 60)) s. The page: $OUT/report.html (curves, maps, all responses)"
echo "Policies: $OUT/{reward-only,dqo}/checkpoints/final. Comparison: $OUT/compare/compare.txt"
