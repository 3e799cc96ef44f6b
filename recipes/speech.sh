#!/usr/bin/env bash
# The pipeline that all speech corpora share: which stage comes when. egs/<corpus>/run.sh binds its options; the work is
# done by sqvae-speech, one verb a stage. What images need as well is in pipeline.sh.
set -euo pipefail

if [ "${BASH_VERSINFO[0]}" -lt 4 ]; then
    echo "error: this needs bash 4 or newer, not $BASH_VERSION" >&2
    exit 1
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/recipes/pipeline.sh"

mel_spec="sqvae16k"
stop_stage=6
target_speaker=""
num_conversions=12
convert_args=""

print_help() {
    cat << END
usage: ${SQVAE_RECIPE:-bash recipes/speech.sh} [options] [--section.key value ...]

stages:
  0 data directories   1 shards   2 training   3 units   4 scores   5 conversion   6 exports
  7 language model over the units (only with --stop-stage 7)
A stage that is done is done again only when its inputs or options changed.

options (with what holds now):
$(print_common_help)
  --mel-spec NAME       preset of the log-mel features ($mel_spec)
  --target-speaker NAME score and convert with this voice too, instead of a sample of all pairs of speakers
  --num-conversions N   recordings to convert ($num_conversions)
  --convert-args ARGS   further options of 'sqvae-speech convert' ($convert_args)
  --lm-config FILE      configuration of the language model ($lm_config)
  --lm-args ARGS        settings of it, such as '--training.num_steps 500 --model.dropout 0.3' ($lm_args)
  --num-samples N       utterances to draw from it ($num_samples)
  --help                print this
END
}

parse_options "--mel-spec --target-speaker --convert-args" "--num-conversions" "$@"
check_options 7
[ "$num_conversions" -ge 1 ] || bad_option "--num-conversions must be at least 1"
set_folders "$mel_spec"

# ---- the stages' work, as far as it is speech

stage_shards() { write_shards wav.scp --mel-spec "$mel_spec" --resample; }

stage_score() { score_splits ${target_speaker:+--target-speaker "$target_speaker"}; }

stage_convert() {
    local words=(--all-pairs)
    if [ -n "$target_speaker" ]; then words=(--target-speaker "$target_speaker"); fi
    # shellcheck disable=SC2086
    sqvae convert --model "$exp_dir" --shards "$dump_dir/$(held_out | tail -n 1)" "${words[@]}" --max "$num_conversions" \
        --output "$exp_dir/wav" $convert_args
}

stage_export() {
    local form store
    for form in km gslm kaldi; do
        mkdir -p "$exp_dir/exports/$form"
        for store in "$exp_dir"/units/*.parquet; do
            sqvae units convert "$store" "$exp_dir/exports/$form/$(basename "$store" .parquet).$form"
        done
    done
}

look_at_codebook() {
    sqvae evaluate codebook --model "$exp_dir" --shards "$dump_dir/$(held_out | tail -n 1)" --max-utterances 200 \
        --output "$exp_dir/codebook" --quiet
}

stage_lm() {
    train_lm "$exp_dir/lm"
    score_lm "$exp_dir/lm"
    sample_lm "$exp_dir/lm"
}

# ---- the stages

begin_recipe

if runs 0; then run_prepare_stage wav.scp wavs; fi

if runs 1; then
    need_train "$data_dir" wav.scp 0
    run_stage 1 shards "$dump_dir/.stage1" "version $version
mel-spec $mel_spec
shards-args $shards_args
$(lines "$data_dir/.stage0" "$data_dir"/{train,dev,test}/{wav.scp,utt2spk,text,segments,ali} | contents)" \
        stage_shards "+$dump_dir"/{train,dev,test}
fi

if runs 2; then run_train_stage; fi

if runs 3 || runs 4 || runs 5; then find_model_inputs; fi

if runs 3; then
    run_stage 3 units "$exp_dir/.stages/3" "$inputs" stage_encode "$exp_dir/units"
fi

if runs 4; then
    run_stage 4 scores "$exp_dir/.stages/4" "$inputs
target-speaker $target_speaker" stage_score "$exp_dir/scores"
fi

if runs 5; then
    run_stage 5 conversion "$exp_dir/.stages/5" "$inputs
target-speaker $target_speaker
num-conversions $num_conversions
convert-args $convert_args" stage_convert "$exp_dir/wav"
fi

if runs 6; then
    ls "$exp_dir"/units/*.parquet > /dev/null 2>&1 || die "$exp_dir/units has no units; run stage 3 first (--stage 3)"
    run_stage 6 exports "$exp_dir/.stages/6" "version $version
$(lines "$exp_dir"/units/*.parquet | contents)" stage_export "$exp_dir/exports"
fi

if runs 7; then
    find_lm_inputs
    run_stage 7 "language model" "$exp_dir/.stages/7" "$lm_inputs
num-samples $num_samples" stage_lm \
        "+$exp_dir/lm/checkpoints/latest" "+$exp_dir/lm/"{scores.json,samples}
fi

# ---- where everything is

write_report look_at_codebook
print_places << END
data-directories $data_dir
shards $dump_dir
checkpoints $exp_dir/checkpoints
plots $exp_dir/plots
units $exp_dir/units
exports $exp_dir/exports
scores $exp_dir/scores
converted-recordings $exp_dir/wav
language-model $exp_dir/lm
report $exp_dir/report.html
END
print_table "$exp_dir/scores/scores.md"
if runs 7; then print_table "$exp_dir/lm/scores.md"; fi
