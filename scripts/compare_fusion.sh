#!/usr/bin/env bash
# Study fusion against its baselines on the phantom: three seeds, the same frozen stage-1 encoder, equally many steps.
#
#   bash scripts/compare_fusion.sh     # about 40 minutes on two cores
#
# Runs that are there already are not repeated; the table (test part, mean ± sd over seeds) comes last.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

studies=(--data.stores data/phantom-4000 --data.phantom.studies 4000)
fusion=--model.network.fusion
declare -A arms=(
    [frontal]="$fusion=longview.models.fusion.MeanFusion --data.views=[PA,AP,unknown]"
    [mean]="$fusion=longview.models.fusion.MeanFusion"
    [max]="$fusion=longview.models.fusion.MaxFusion"
    [attention]="$fusion=longview.models.fusion.AttentionFusion"
    [weighted]="$fusion=longview.models.fusion.WeightedFusion"
    [transformer_alone]="$fusion.init_args.across=false"
    [transformer]=""
    [transformer_slot]="$fusion.init_args.embedding=slot"
    [transformer_none]="$fusion.init_args.embedding=none"
)
order=(frontal mean max attention weighted transformer_alone transformer transformer_slot transformer_none)

run() { # run NAME ARGUMENTS: one training, unless its test scores are there
    if grep -qs "test/map" runs/"$1"/version_*/metrics.csv; then return; fi
    uv run main.py fit --name "$@" --trainer.enable_progress_bar false
}

best() { # best NAME: the best checkpoint of its newest version
    local newest
    newest=$(printf '%s\n' runs/"$1"/version_* | sort -V | tail -n 1)
    echo "$newest/checkpoints/best.ckpt"
}

for seed in 0 1 2; do
    run "fusion_stage1_$seed" --config configs/demo.yaml --seed_everything "$seed" "${studies[@]}"
    for arm in "${order[@]}"; do
        # shellcheck disable=SC2086  # an arm is several words
        run "fusion_${arm}_$seed" --config configs/experiment/demo_fusion.yaml --seed_everything "$seed" "${studies[@]}" \
            --model.pretrained "$(best "fusion_stage1_$seed")" --trainer.max_epochs 12 \
            --data.augment null --feature_cache data/features ${arms[$arm]}
    done
done
groups=()
for arm in "${order[@]}"; do groups+=("$arm=runs/fusion_${arm}_[0-9]"); done
uv run scripts/score_table.py "${groups[@]}"
