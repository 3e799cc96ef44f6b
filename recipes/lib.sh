# Functions that all recipes share: messages, options, and stages that are done once. Sourced, never run.
#
# A stage has a marker, a file that is written last and holds what the stage was made from, in lines that a person can
# read. A stage whose marker says the same as its inputs is done.

say() { printf '%s\n' "$*"; }

warn() { printf '%s\n' "$*" >&2; }

die() {
    warn "error: $*"
    exit 1
}

# bad_option MESSAGE: the help and the message on standard error, exit 2. Needs a function print_help.
bad_option() {
    print_help >&2
    warn ""
    warn "error: $*"
    exit 2
}

# is_count TEXT: whether it is a number from 0.
is_count() { [[ $1 =~ ^(0|[1-9][0-9]*)$ ]]; }

# absolute PATH [FOLDER]: PATH as seen from FOLDER (default: the current one), without following links.
absolute() {
    case $1 in
        /*) printf '%s\n' "$1" ;;
        "~/"*) printf '%s\n' "$HOME/${1#"~/"}" ;;
        *) printf '%s\n' "${2:-$PWD}/$1" ;;
    esac
}

# number_of_gpus: the NVIDIA GPUs that this shell may use.
number_of_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        awk -v list="$CUDA_VISIBLE_DEVICES" 'BEGIN { print (list == "" || list == "-1") ? 0 : split(list, gpus, ",") }'
    elif command -v nvidia-smi > /dev/null; then
        nvidia-smi --list-gpus 2> /dev/null | grep -c '^GPU' || true
    else
        echo 0
    fi
}

# launch_training MODULE WORD...: runs a module of python's with these arguments on $ngpu GPUs, or as $num_processes
# processes on the CPU, of each of $num_machines machines, of which this is number $machine_rank.
launch_training() {
    local launcher=(python) processes=$num_processes address=(--standalone)
    [ "$ngpu" = 0 ] || processes=$ngpu
    if [ "$num_machines" -gt 1 ]; then
        address=(--nnodes "$num_machines" --node_rank "$machine_rank"
            --master_addr "${main_address%:*}" --master_port "${main_address##*:}")
    fi
    if [ "$ngpu" != 0 ] && [ $((ngpu * num_machines)) -gt 1 ]; then
        # everything said, so that no configuration of accelerate's in the user's home decides; port 0 is a free one
        launcher+=(-m accelerate.commands.launch --multi_gpu --num_machines "$num_machines"
            --num_processes $((ngpu * num_machines)) --machine_rank "$machine_rank" --mixed_precision no
            --dynamo_backend no --main_process_port 0)
        if [ "$num_machines" -gt 1 ]; then
            launcher+=(--main_process_ip "${main_address%:*}" --main_process_port "${main_address##*:}")
        fi
    elif [ $((processes * num_machines)) -gt 1 ]; then
        # not accelerate launch: with --cpu it starts processes that know nothing of each other
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((($(number_of_cores) + processes - 1) / processes))}"
        launcher+=(-m torch.distributed.run "${address[@]}" --nproc_per_node "$processes")
    fi
    "${launcher[@]}" -m "$@"
}

number_of_cores() { nproc 2> /dev/null || getconf _NPROCESSORS_ONLN; }

# checksum: a checksum of standard input, in one word.
checksum() { cksum | tr ' ' '-'; }

# listing PATH: a checksum of the names, sizes and times of all files at or below PATH. Needs the environment's python.
listing() {
    python -I - "$1" << 'END'
import hashlib, os, sys

top = sys.argv[1]
files = [top] if os.path.isfile(top) else sorted(
    os.path.join(folder, name) for folder, _, names in os.walk(top, followlinks=True) for name in names
)
digest = hashlib.sha256()
for file in files:
    status = os.lstat(file) if not os.path.exists(file) else os.stat(file)
    digest.update(f"{os.path.relpath(file, top)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
print(f"{len(files)} files, {digest.hexdigest()[:16]}")
END
}

# contents: a line for each file named on standard input, with a checksum of what is in it.
contents() {
    local file
    while IFS= read -r file; do
        if [ -f "$file" ]; then say "$file $(checksum < "$file")"; else say "$file missing"; fi
    done
}

lines() { printf '%s\n' "$@"; }

# Outputs that are being made again are set aside, so that a failure gives back what was there.
_aside=()
_stage_running=""

_give_back() {
    local output
    for output in "${_aside[@]+"${_aside[@]}"}"; do
        rm -rf "$output"
        if [ -e "$(_old_of "$output")" ]; then mv "$(_old_of "$output")" "$output"; fi
    done
    _aside=()
}

_old_of() { printf '%s/.%s.old\n' "$(dirname "$1")" "$(basename "$1")"; }

_set_aside() {
    local output old
    for output in "$@"; do
        old=$(_old_of "$output")
        if [ -e "$old" ]; then # left by a run that was killed: what is there now is half of something
            rm -rf "$output"
        elif [ -e "$output" ]; then
            mv "$output" "$old"
        fi
        _aside+=("$output")
    done
}

_keep_new() {
    local output
    for output in "${_aside[@]+"${_aside[@]}"}"; do rm -rf "$(_old_of "$output")"; done
    _aside=()
}

# To be the EXIT trap of a recipe.
finish_stages() {
    local status=$?
    if [ -n "$_stage_running" ]; then
        _give_back
        warn "$_stage_running was interrupted; log: $_stage_log"
    fi
    return $status
}

# _names OUTPUT...: how many files are in the outputs, and a checksum of their names, to see that none was deleted.
# Hidden ones (locks, caches) come and go.
_names() {
    local files
    files=$(find "${@#+}" -name '.*' -prune -o -type f -print 2> /dev/null | LC_ALL=C sort)
    say "outputs $(grep -c . <<< "$files") files, names $(checksum <<< "$files")"
}

# _run_stoppable FUNCTION: runs it, and when this script is asked to stop (kill, SLURM's signals, Ctrl-C) asks all that
# the function has started, and waits until it is gone: training then saves its state. SIGTERM whatever the signal, since
# a launcher hands signals on as well, and a second Ctrl-C means at once.
_stopped_by=""
_run_stoppable() {
    local job status signal
    set -m # a process group of its own
    (set -e; "$1") &
    job=$!
    set +m
    # shellcheck disable=SC2064  # now: it is this signal and this job
    for signal in TERM INT HUP USR1; do trap "_stopped_by=$signal; kill -TERM -- -$job 2> /dev/null || true" "$signal"; done
    while true; do
        wait "$job"
        status=$?
        kill -0 "$job" 2> /dev/null || break # else it was a signal that ended the wait
    done
    while kill -0 -- "-$job" 2> /dev/null; do sleep 0.1; done
    trap - TERM INT HUP USR1
    return "$status"
}

# run_stage NUMBER NAME MARKER INPUTS FUNCTION OUTPUT...
#
# Runs FUNCTION unless MARKER says that it was run with these INPUTS (lines of text) and the OUTPUTs are there, or if
# $force. What it prints goes to $log_dir/stageNUMBER.log; on a terminal it is shown as well. OUTPUTs are files and
# folders that FUNCTION makes as a whole: they are set aside while it runs and given back if it fails. Those with a +
# before them stay where they are: FUNCTION goes on with what it finds (shards, checkpoints).
run_stage() {
    local number=$1 name=$2 marker=$3 inputs=$4 function=$5
    local started=$SECONDS status title="stage $1 ($2)" output whole=()
    shift 5
    for output in "$@"; do [[ $output == +* ]] || whole+=("$output"); done
    mkdir -p "$(dirname "$marker")" "$log_dir"
    exec 8> "$marker.lock"
    if command -v flock > /dev/null && ! flock -n 8; then
        say "$title: another run is at it; waiting"
        flock 8
    fi
    if ! $force && [ -f "$marker" ] && [ "$(cat "$marker")" = "$inputs"$'\n'"$(_names "$@")" ]; then
        exec 8>&-
        say "$title: done already"
        return
    fi
    _stage_log="$log_dir/stage$number.log"
    if ! $force && [ -f "$marker" ]; then
        say "$title: its inputs or outputs have changed since it was done; doing it again (log: $_stage_log)"
        { diff "$marker" - <<< "$inputs"$'\n'"$(_names "$@")" || true; } | sed -n 's/^[<>]/  &/p' | cut -c 1-160
    else
        say "$title (log: $_stage_log)"
    fi
    rm -f "$marker"
    _stage_running=$title
    _set_aside "${whole[@]+"${whole[@]}"}"
    # not in a condition: bash would ignore `set -e` inside the function
    set +e
    if [ -t 1 ]; then
        _run_stoppable "$function" 8>&- > >(tee "$_stage_log") 2>&1
    else
        _run_stoppable "$function" 8>&- > "$_stage_log" 2>&1
    fi
    status=$?
    set -e
    if [ "$status" -gt 128 ] && [ -n "$_stopped_by" ]; then exit "$status"; fi # finish_stages does the rest
    _stage_running=""
    if [ "$status" != 0 ]; then
        _give_back
        exec 8>&-
        if ! [ -t 1 ]; then
            warn "the end of $_stage_log:"
            tr '\r' '\n' < "$_stage_log" | tail -n 30 | sed 's/^/    /' >&2
        fi
        warn "error: $title failed with status $status; log: $_stage_log"
        exit 1
    fi
    _keep_new
    lines "$inputs" "$(_names "$@")" > "$marker.new"
    mv "$marker.new" "$marker"
    exec 8>&-
    say "$title: done in $((SECONDS - started)) s"
}
