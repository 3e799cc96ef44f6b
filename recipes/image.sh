#!/usr/bin/env bash
# The pipeline that all image corpora share: which stage comes when. egs/<corpus>/run.sh binds its options; the work is
# done by sqvae-speech, one verb a stage. What speech needs as well is in pipeline.sh.
set -euo pipefail

if [ "${BASH_VERSINFO[0]}" -lt 4 ]; then
    echo "error: this needs bash 4 or newer, not $BASH_VERSION" >&2
    exit 1
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/recipes/pipeline.sh"

size=""
crop=""
perceptual=""
stop_stage=6
num_samples=64

print_help() {
    cat << END
usage: ${SQVAE_RECIPE:-bash recipes/image.sh} [options] [--section.key value ...]

stages:
  0 data directories   1 shards   2 training   3 codes   4 scores   5 prior over the codes   6 samples
A stage that is done is done again only when its inputs or options changed.

options (with what holds now):
$(print_common_help)
  --size N              scale the images to N x N pixels (${size:-as they are})
  --crop N              first cut N x N pixels from their middle (${crop:-all of them})
  --perceptual NAMES    further scores, 'lpips', 'fid' or both, where their weights can be had ($perceptual)
  --lm-config FILE      configuration of the prior ($lm_config)
  --lm-args ARGS        settings of it, such as '--training.num_steps 500 --model.dropout 0.3' ($lm_args)
  --num-samples N       images to draw from it ($num_samples)
  --help                print this
END
}

parse_options "--perceptual" "--size --crop" "$@"
check_options 6
set_folders ""

# ---- the stages' work, as far as it is images

stage_shards() { write_shards images.scp ${size:+--size "$size"} ${crop:+--crop "$crop"}; }

# shellcheck disable=SC2086  # names are words
stage_score() { score_splits ${perceptual:+--perceptual $perceptual}; }

stage_prior() {
    train_lm "$exp_dir/prior"
    score_lm "$exp_dir/prior"
}

stage_samples() { sample_lm "$exp_dir/prior"; }

# ---- the stages

begin_recipe

if runs 0; then run_prepare_stage images.scp arrays; fi

if runs 1; then
    need_train "$data_dir" images.scp 0
    run_stage 1 shards "$dump_dir/.stage1" "version $version
size $size
crop $crop
shards-args $shards_args
$(lines "$data_dir/.stage0" "$data_dir"/{train,dev,test}/{images.scp,labels,classes} | contents)" \
        stage_shards "+$dump_dir"/{train,dev,test}
fi

if runs 2; then run_train_stage; fi

if runs 3 || runs 4; then find_model_inputs; fi

if runs 3; then
    run_stage 3 codes "$exp_dir/.stages/3" "$inputs" stage_encode "$exp_dir/units"
fi

if runs 4; then
    run_stage 4 scores "$exp_dir/.stages/4" "$inputs
perceptual $perceptual" stage_score "$exp_dir/scores"
fi

if runs 5; then
    find_unit_inputs "$lm_config" lm-args "$lm_args"
    run_stage 5 prior "$exp_dir/.stages/5" "$unit_inputs" stage_prior \
        "+$exp_dir/prior/checkpoints/latest" "+$exp_dir/prior/scores.json"
fi

if runs 6; then
    [ -e "$exp_dir/prior/checkpoints/latest" ] || die "$exp_dir/prior has no checkpoint; run stage 5 first (--stage 5)"
    run_stage 6 samples "$exp_dir/.stages/6" "version $version
$(checkpoint_files "$exp_dir/prior" | contents)
$(checkpoint_files "$exp_dir" | contents)
num-samples $num_samples" stage_samples "$exp_dir/prior/samples"
fi

# ---- where everything is

write_report true
print_places << END
data-directories $data_dir
shards $dump_dir
checkpoints $exp_dir/checkpoints
plots $exp_dir/plots
codes $exp_dir/units
scores $exp_dir/scores
prior $exp_dir/prior
samples $exp_dir/prior/samples
report $exp_dir/report.html
END
print_table "$exp_dir/scores/scores.md"
if runs 5; then print_table "$exp_dir/prior/scores.md"; fi
