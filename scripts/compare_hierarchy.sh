#!/usr/bin/env bash
# A penalty on children above their parents, against none: three seeds.
#
#   bash scripts/compare_hierarchy.sh     # about 15 minutes on two cores
#
# Runs that are there already are not repeated; the table (test part, mean ± sd over seeds) comes last.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

loss=--model.loss.init_args
run() { # run NAME SEED ARGUMENTS: train, predict and evaluate, unless that is there
    local name="hierarchy_$1_$2" seed=$2 newest
    if [[ -f results/$name/metrics.json ]]; then return; fi
    uv run main.py fit --config configs/experiment/phantom_hierarchical.yaml --name "$name" --seed_everything "$seed" \
        "${@:3}" --trainer.enable_progress_bar false
    newest=$(printf '%s\n' runs/"$name"/version_* | sort -V | tail -n 1)
    uv run main.py predict --ckpt_path "$newest/checkpoints/best.ckpt" --output "results/$name.parquet" \
        --trainer.enable_progress_bar false
    uv run main.py evaluate --predictions "results/$name.parquet" --truth data/phantom --labels phantom_hierarchical \
        --output "results/$name"
}

for seed in 0 1 2; do
    run none "$seed" $loss.penalty 0
    run hinge "$seed"
done
uv run scripts/report_table.py --digits 4 --figure 'macro mAP=map' --figure 'AUROC=auroc' \
    --figure 'child above parent=hierarchy.child_above_parent.before' \
    --figure 'child without parent=hierarchy.child_without_parent.before' \
    --figure 'mAP made consistent=hierarchy.map.after' \
    'no penalty=results/hierarchy_none_[0-9]' 'hinge=results/hierarchy_hinge_[0-9]'
