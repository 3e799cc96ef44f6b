#!/usr/bin/env bash
# How much nearer conversion comes to the true target on the mini corpus, where every voice says the same sentence of the
# test split: the tables of VOICES.md.
#
#     bash egs/mini/local/voices.sh                      # after egs/mini/run.sh, in the recipe's folder
#     bash egs/mini/local/voices.sh WORK_DIR [MODEL [OUTPUT_DIR]]
#     VOCODERS="griffin_lim istft:exp/vocoder_sqvae16k" bash egs/mini/local/voices.sh
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work_dir=${1:-$recipe}
model=${2:-$work_dir/exp/train_sqvae16k}
output=${3:-$work_dir/exp/voices}
test="$work_dir/data/test"
read -r -a vocoders <<< "${VOCODERS:-griffin_lim}"
source "$recipe/../../tools/activate.sh"

mkdir -p "$output"
# sentences of several speakers, in every voice
awk 'NR == FNR { name = $1; $1 = ""; said[$0]++; of[name] = $0; next }
     FILENAME ~ /spk2utt$/ { speakers[$1]; next }
     said[of[$1]] > 1 { for (speaker in speakers) print $1, speaker }' \
    "$test/text" "$test/spk2utt" "$test/utt2spk" > "$output/pairs"
wavs=()
for vocoder in "${vocoders[@]}"; do
    wavs+=("$output/wav_${vocoder//[^A-Za-z0-9_]/_}")
    python -m sqvae_speech.bin.main convert --model "$model" --shards "$work_dir/dump/sqvae16k/test" --pairs "$output/pairs" \
        --vocoder "$vocoder" --output "${wavs[-1]}" --no-plots --quiet
done
python -m sqvae_speech.bin.main evaluate voices --wavs "${wavs[@]}" --names "${vocoders[@]}" \
    --data "$test" --train-data "$work_dir/data/train" --output "$output/voices.json" --quiet
