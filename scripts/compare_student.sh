#!/usr/bin/env bash
# A noisy student on the phantom: a tenth of the training patients keep their labels, a teacher trained on them fills in
# the rest, and students learn from both; two rounds, three seeds, equally many steps for each.
#
#   bash scripts/compare_student.sh     # about 40 minutes on two cores
#
# Runs that are there already are not repeated; the table (test part, mean ± sd over seeds) comes last.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

steps=(--trainer.max_steps 3000 --trainer.max_epochs -1 --trainer.val_check_interval 250
    --trainer.check_val_every_n_epoch null --trainer.enable_progress_bar false)

train() { # train NAME SEED STORE: one training, unless its test scores are there
    if grep -qs "test/map" runs/"$1"/version_*/metrics.csv; then return; fi
    uv run main.py fit --config configs/demo.yaml --name "$1" --seed_everything "$2" --data.stores "$3" \
        --data.phantom null --data.image_size 64 "${steps[@]}"
}

fill() { # fill TEACHER ALL OUTPUT: the teacher's probabilities where labels are unknown
    local newest
    if [[ -f $3/store.json ]]; then return; fi
    newest=$(printf '%s\n' runs/"$1"/version_* | sort -V | tail -n 1)
    uv run main.py predict --ckpt_path "$newest/checkpoints/best.ckpt" --data.stores "$2" --data.predict_split train \
        --output "results/$1.parquet" --trainer.enable_progress_bar false
    uv run main.py pseudo --manifest "$2" --predictions "results/$1.parquet" --output "$3"
}

uv run main.py phantom --layout cxr-lt-2024 --studies 2400 --size 64 --seed 2 --output data/raw/phantom-cxr-lt
uv run main.py prepare --source cxr-lt-2024 --root data/raw/phantom-cxr-lt --size 64 --labels phantom \
    --output data/phantom-cxr-lt
for seed in 0 1 2; do
    few=data/few_$seed
    if [[ ! -d $few-all ]]; then
        uv run scripts/keep_labels.py --store data/phantom-cxr-lt --share 0.1 --seed "$seed" --output "$few"
    fi
    train "student_0_$seed" "$seed" "$few-labelled"
    for round in 1 2; do
        fill "student_$((round - 1))_$seed" "$few-all" "$few-pseudo$round"
        train "student_${round}_$seed" "$seed" "$few-pseudo$round"
    done
    if [[ $seed == 0 ]]; then train student_whole_0 0 data/phantom-cxr-lt; fi
done
uv run scripts/score_table.py 'teacher, 10 % of the labels=runs/student_0_[0-9]' 'student, round 1=runs/student_1_[0-9]' \
    'student, round 2=runs/student_2_[0-9]' 'all labels=runs/student_whole_0'
