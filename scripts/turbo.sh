#!/usr/bin/env bash
#
# Tests the store as the remote cache of Turborepo with its own client, `turbo`: a build
# misses, and one on another machine, as it were, hits.
#
#     scripts/turbo.sh
#     ENGINE=durable scripts/turbo.sh
#     ENGINE=cluster scripts/turbo.sh
#
# The client comes from npm, once, into target/tools. It starts a server of its own, on
# 127.0.0.1, and nothing but that is asked by a build.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

VERSION=2.11.11
TOOLS=$ROOT/target/tools/turbo-$VERSION
TURBO=$TOOLS/node_modules/.bin/turbo
WHAT='the client of Turborepo'

# Settings of the person who runs this.
while read -r name; do
    unset "$name"
done < <(compgen -e | grep '^TURBO_')

need node "$WHAT" || summary
need npm "$WHAT" || summary
if [ ! -x "$TURBO" ]; then
    mkdir -p "$TOOLS"
    if ! npm install --prefix "$TOOLS" --no-audit --no-fund --no-update-notifier --ignore-scripts \
        "turbo@$VERSION" >"$WORK/npm" 2>&1; then
        skip "$WHAT" "npm cannot get it: $(tail -n 1 "$WORK/npm")"
        summary
    fi
fi

# A store whose tokens have the right to artifacts alone.
{
    echo 'token-of-those-who-build turbo/'
    echo 'token-of-those-who-look ro turbo/'
} >"$WORK/tokens"
chmod 600 "$WORK/tokens"
start_on_engine --token-file "$WORK/tokens"

# A repository of two packages without dependencies.
SHOP=$WORK/shop
mkdir -p "$SHOP/packages/cart" "$SHOP/packages/till"
cd "$SHOP"
echo '{"name":"shop","private":true,"packageManager":"npm@11.0.0","workspaces":["packages/*"]}' >package.json
cat >package-lock.json <<'LOCK'
{"name":"shop","lockfileVersion":3,"requires":true,"packages":{
"":{"name":"shop","workspaces":["packages/*"]},
"node_modules/cart":{"resolved":"packages/cart","link":true},
"node_modules/till":{"resolved":"packages/till","link":true},
"packages/cart":{"name":"cart","version":"1.0.0"},
"packages/till":{"name":"till","version":"1.0.0"}}}
LOCK
for package in cart till; do
    cat >"packages/$package/package.json" <<PACKAGE
{"name":"$package","version":"1.0.0","scripts":{
"build":"mkdir -p dist && echo built $package >dist/out && echo x >>$WORK/built"}}
PACKAGE
done

# configure MEMBERS: the configuration of the client, with more members.
configure() {
    echo "{$1\"tasks\":{\"build\":{\"outputs\":[\"dist/**\"]}}}" >turbo.json
}

# build TEAM [NAME=VALUE...]: builds all packages where nobody has built before. Its output
# is in $WORK/output; sets CODE, and BUILT to the number of packages that were built and
# not taken from the cache.
build() {
    local team=$1
    shift
    rm -rf .turbo node_modules packages/*/dist packages/*/.turbo
    : >"$WORK/built"
    CODE=0
    env "HOME=$WORK/home" "TURBO_API=$URL" TURBO_TOKEN=token-of-those-who-build "TURBO_TEAM=$team" \
        TURBO_TELEMETRY_DISABLED=1 DO_NOT_TRACK=1 TURBO_NO_UPDATE_NOTIFIER=1 \
        npm_config_update_notifier=false "$@" \
        "$TURBO" run build >"$WORK/output" 2>&1 </dev/null || CODE=$?
    BUILT=$(($(wc -l <"$WORK/built")))
}

# builds WHAT COUNT TEAM [NAME=VALUE...]: a build that ends well, and builds so many packages.
builds() {
    local what=$1 count=$2
    shift 2
    build "$@"
    check "$what" "$count built, exit 0" "$BUILT built, exit $CODE"
    check_file 'and what is built is there' <(echo 'built till') packages/till/dist/out
}

# of_store PATH: an answer of the store to those who build.
of_store() {
    curl -H 'Authorization: Bearer token-of-those-who-build' "$URL$1"
}

configure ''
builds 'a first build misses' 2 shop
check_match 'the cache is in use' 'Remote caching enabled' "$(cat "$WORK/output")"
builds 'a second one hits' 0 shop
check 'what it has is two values' 2 "$(of_store '/kv?count&prefix=turbo/shop/')"
builds 'another team misses' 2 mall
builds 'one who may only read hits' 0 shop TURBO_TOKEN=token-of-those-who-look
builds 'one who may only read stores nothing' 2 park TURBO_TOKEN=token-of-those-who-look
builds 'so the next one misses too' 2 park
builds 'a token that is not known misses' 2 shop TURBO_TOKEN=token-of-nobody
check 'values can be deleted' 2 "$(curl -X DELETE -H 'Authorization: Bearer token-of-those-who-build' "$URL/kv?prefix=turbo/shop/")"
builds 'and a build misses again' 2 shop

# The signature is in a field of its own, which has to come back as it was.
configure '"remoteCache":{"signature":true},'
builds 'a first build that signs misses' 2 signed TURBO_REMOTE_CACHE_SIGNATURE_KEY=secret
builds 'a second one hits' 0 signed TURBO_REMOTE_CACHE_SIGNATURE_KEY=secret
builds 'one with another key does not trust it' 2 signed TURBO_REMOTE_CACHE_SIGNATURE_KEY=other

of_store /metrics >"$WORK/metrics"
check_match 'artifacts are counted under their route' \
    '^lkv_http_requests_total\{method="PUT",route="/v8/artifacts/\{hash\}",status="202"\} [1-9]' "$(cat "$WORK/metrics")"
check_match 'and events are taken' \
    '^lkv_http_requests_total\{method="POST",route="/v8/artifacts/events",status="200"\} [1-9]' "$(cat "$WORK/metrics")"
check 'nothing that it asks is unknown' '' \
    "$(grep -E '^lkv_http_requests_total\{.*(route="other"|status="(400|405|5..)").*\} [1-9]' "$WORK/metrics" || true)"
server_ends_well
summary
