#!/usr/bin/env bash
# Every loss, sampling and two-stage schedule on the phantom: three seeds, the same frozen stage-1 encoder, equally many
# steps of stage 2 (the classifier is what a long tail bends most: Kang et al. 2020, arXiv 1910.09217).
#
#   bash scripts/compare_losses.sh     # about 85 minutes on two cores
#
# Runs that are there already are not repeated; the table (test part, mean ± sd over seeds) comes last.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

studies=(--data.stores data/phantom-9000 --data.phantom.studies 9000)
# an arm is the overlays it adds to BCE, joined by +
arms=(
    bce
    loss_weighted_bce loss_weighted_bce_frequency loss_focal loss_poly loss_class_balanced loss_asl loss_asl_weighted loss_ral
    loss_distribution_balanced loss_ldam loss_deferred loss_label_smoothing
    sampling_class_aware sampling_square_root sampling_effective_number sampling_deferred
    loss_asl+sampling_square_root loss_ldam+sampling_deferred loss_ldam+sampling_effective_number
    ema sampling_effective_number+ema
)

run() { # run NAME ARGUMENTS: one training, unless its test scores are there
    if grep -qs "test/map" runs/"$1"/version_*/metrics.csv; then return; fi
    uv run main.py fit --name "$@" --trainer.enable_progress_bar false
}

best() { # best NAME: the best checkpoint of its newest version
    local newest
    newest=$(printf '%s\n' runs/"$1"/version_* | sort -V | tail -n 1)
    echo "$newest/checkpoints/best.ckpt"
}

second() { # second ARM SEED: stage 2 with an arm's overlays
    local arm=$1 seed=$2 overlays=()
    if [[ $arm != bce ]]; then
        for overlay in ${arm//+/ }; do overlays+=(--config "configs/overlay/$overlay.yaml"); done
    fi
    run "losses_${arm}_$seed" --config configs/experiment/demo_fusion.yaml "${overlays[@]}" --seed_everything "$seed" \
        "${studies[@]}" --model.pretrained "$(best "losses_stage1_$seed")" --trainer.max_epochs 6 \
        --data.augment null --feature_cache data/features
}

for seed in 0 1 2; do
    run "losses_stage1_$seed" --config configs/demo.yaml --seed_everything "$seed" "${studies[@]}" --trainer.max_epochs 10
    for arm in "${arms[@]}"; do second "$arm" "$seed"; done
done
groups=()
for arm in "${arms[@]}"; do groups+=("$arm=runs/losses_${arm}_[0-9]"); done
uv run scripts/score_table.py "${groups[@]}"
