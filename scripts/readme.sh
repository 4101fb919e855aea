#!/usr/bin/env bash
#
# Runs the commands in README.md's "Use it with curl" and "See inside", one after the
# other, and compares the answers with those that stand there; and looks for each file of
# the project that it names.
#
#     scripts/readme.sh                              starts a server of its own
#     ENGINE=durable scripts/readme.sh               on the durable engine
#     ENGINE=cluster scripts/readme.sh               in front of a cluster
#
# It needs an empty store, so it always starts one. A watch is ended after five seconds.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

URL=
use_server

# The commands may name files of the project, and leave some behind.
mkdir "$WORK/project"
cp -r "$ROOT/LICENSE" "$ROOT/src" "$WORK/project"
cd "$WORK/project"

# without_numbers: an answer without the number of a job, which is another each time.
without_numbers() {
    tr -d '\r' | sed 's/^job:[0-9]*-[0-9]*$/job:NUMBER/'
}

# run COMMAND: as in a terminal, on our server.
run() {
    local patience=60
    case $1 in *'curl -sN '*) patience=5 ;; esac
    printf 'no-progress-meter\nmax-time = %s\n' "$patience" >"$WORK/.curlrc"
    CURL_HOME=$WORK bash -c "${1//http:\/\/127.0.0.1:8888/$URL}" 2>&1 || true
}

# answer_with_slots: what a command is told whose keys are in different slots.
answer_with_slots() {
    case $command in
        *'kv?take='*) answer='keys are in different slots' ;;
        # So that one is still there.
        *'/import') answer=$((answer + 1)) ;;
        *'curl -f '*'/batch') answer='curl: (22) The requested URL returned error: 409' ;;
        # Of `not on this engine` the shell there takes the second word for an id.
        *'/watch'*) answer='not this engine' ;;
        # There is no disk.
        *disk_full*) answer= ;;
    esac
}

# compare: runs the command before us, if there is one.
compare() {
    if [ -n "$command" ]; then
        if has_slots; then answer_with_slots; fi
        check "$command" "$(printf '%s' "$answer" | without_numbers)" "$(run "$command" | without_numbers)"
    fi
    command=
    answer=
}

command=
answer=
while IFS= read -r line; do
    case $line in
        '    $ '*)
            compare
            command=${line#    \$ }
            ;;
        '    '*) answer="$answer${answer:+
}${line#    }" ;;
        *) compare ;;
    esac
done < <(sed -n '/^## Use it with curl/,/^### /p; /^### See inside/,/^### N/p' "$ROOT/README.md")

# Those that are not there.
missing_files() {
    local file
    grep -oE '`(src|scripts|tests)/[A-Za-z0-9_./-]+' "$ROOT/README.md" | tr -d '`' | while IFS= read -r file; do
        if [ ! -e "$ROOT/$file" ]; then echo "$file"; fi
    done
}
check 'each file that it names is there' '' "$(missing_files)"

server_ends_well
summary
