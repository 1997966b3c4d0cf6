#!/usr/bin/env bash
# Labels that training never saw, asked by their text or by random vectors: three seeds on the phantom.
#
#   bash scripts/compare_zero_shot.sh     # about 40 minutes on two cores; needs the extra `text`
#
# Runs that are there already are not repeated; the table (test part, mean ± sd over seeds) comes last.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

encoder=--model.network.decoder.init_args.queries.init_args.text.init_args.encoder
for seed in 0 1 2; do
    for text in minilm random; do
        name="zero_shot_${text}_$seed"
        if [[ -f "results/$name.parquet" ]]; then continue; fi
        uv run --extra text main.py fit --config configs/experiment/phantom_zero_shot.yaml --name "$name" \
            --seed_everything "$seed" "$encoder=$text" --trainer.enable_progress_bar false
        newest=$(printf '%s\n' runs/"$name"/version_* | sort -V | tail -n 1)
        uv run main.py predict --ckpt_path "$newest/checkpoints/best.ckpt" --output "results/$name.parquet"
    done
done
uv run scripts/zero_shot_table.py --store data/phantom_zero_shot --labels phantom_zero_shot \
    'text=results/zero_shot_minilm_[0-9].parquet' 'random=results/zero_shot_random_[0-9].parquet'
