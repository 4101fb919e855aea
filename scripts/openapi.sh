#!/usr/bin/env bash
#
# Tests the description of the API with tools of others: Spectral has no complaint about
# it, and Schemathesis, which makes calls of it, meets no failure of the server, and no
# status, type or header field that it does not tell of, without tokens and with one.
#
#     scripts/openapi.sh
#
# It starts servers of its own. The tools are kept in target/tools; the first time they
# come from their registries, which takes half a minute.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

TOKEN=a-token-of-this-test
SPECTRAL=6.16.3
SCHEMATHESIS=4.32.5
TOOLS=$ROOT/target/tools
CHECKS=not_a_server_error,status_code_conformance,response_headers_conformance
CHECKS=$CHECKS,response_schema_conformance,unsupported_method,allow_header_conformance
CHECKS=$CHECKS,described_fields,described_type

# install WHAT FOLDER COMMAND...: has a command install a tool in a folder, unless it is
# there.
install() {
    local what=$1 folder=$2
    shift 2
    if [ -e "$folder/complete" ]; then return 0; fi
    rm -rf "$folder"
    mkdir -p "$folder"
    if "$@" >"$WORK/install" 2>&1 && touch "$folder/complete"; then return 0; fi
    skip "$what" "it cannot be installed: $(tail -n 1 "$WORK/install")"
    return 1
}

# shellcheck disable=SC2317,SC2329 # `install` calls it.
install_spectral() {
    npm install --silent --no-audit --no-fund --prefix "$SPECTRAL_FOLDER" \
        "@stoplight/spectral-cli@$SPECTRAL"
}

# shellcheck disable=SC2317,SC2329 # `install` calls it.
install_schemathesis() {
    python3 -m venv "$SCHEMATHESIS_FOLDER" \
        && "$SCHEMATHESIS_FOLDER/bin/pip" install --quiet "schemathesis==$SCHEMATHESIS"
}

# finds_nothing WHAT SECONDS ARG...: has Schemathesis make hundreds of calls, so many
# seconds long and again with other ones where that is not enough for this machine.
finds_nothing() {
    local what=$1 calls=0 more seed
    shift
    for seed in 1 2 3 4 5 6 7 8 9; do
        schemathesis "$seed" "$@"
        more=$(sed -n 's/^ *\([0-9]*\) generated.*/\1/p' "$WORK/schemathesis")
        calls=$((calls + ${more:-0}))
        if [ "$CODE" -ne 0 ] || [ "$calls" -ge 300 ]; then break; fi
    done
    check "Schemathesis finds nothing $what" 0 "$CODE$([ "$CODE" = 0 ] || cat "$WORK/schemathesis")"
    check_that "it has made hundreds of calls: $calls" [ "$calls" -ge 300 ]
}

# schemathesis SEED SECONDS ARG...: runs it for so long at most; sets CODE.
schemathesis() {
    local seed=$1 seconds=$2
    shift 2
    CODE=0
    # Its own files, as those of examples that have failed, go with $WORK.
    (cd "$WORK" && env SCHEMATHESIS_HOOKS=openapi PYTHONPATH="$ROOT/scripts" \
        PYTHONDONTWRITEBYTECODE=1 \
        "$SCHEMATHESIS_FOLDER/bin/schemathesis" --no-color run "$URL/openapi.json" \
        --seed "$seed" --max-time "$seconds" --phases coverage,fuzzing --checks "$CHECKS" \
        --generation-database none --request-timeout 20 --warnings off "$@") \
        >"$WORK/schemathesis" 2>&1 || CODE=$?
}

SPECTRAL_FOLDER=$TOOLS/spectral-$SPECTRAL
SCHEMATHESIS_FOLDER=$TOOLS/schemathesis-$SCHEMATHESIS

if need npm 'a lint of the description' \
    && install 'a lint of the description' "$SPECTRAL_FOLDER" install_spectral; then
    echo 'extends: ["spectral:oas"]' >"$WORK/ruleset.yaml"
    CODE=0
    "$SPECTRAL_FOLDER/node_modules/.bin/spectral" lint --ruleset "$WORK/ruleset.yaml" \
        --fail-severity hint "$ROOT/src/api/openapi.json" >"$WORK/spectral" 2>&1 || CODE=$?
    check 'Spectral has no complaint' 0 "$CODE$([ "$CODE" = 0 ] || cat "$WORK/spectral")"
fi

if need python3 'calls from the description' \
    && install 'calls from the description' "$SCHEMATHESIS_FOLDER" install_schemathesis; then
    for access in 'without tokens' 'with a token'; do
        case $access in
            'without tokens')
                start_server
                finds_nothing "$access" 20
                ;;
            'with a token')
                printf '%s\n' "$TOKEN" >"$WORK/tokens"
                start_server --token-file "$WORK/tokens"
                finds_nothing "$access" 15 --header "Authorization: Bearer $TOKEN"
                ;;
        esac
        server_ends_well
    done
fi
summary
