#!/usr/bin/env bash
#
# Keeps a copy of a value in a file and brings it up to date: the value is
# sent only if it has changed.
#
#     URL=http://127.0.0.1:8888 scripts/examples/cache.sh app.conf /etc/app.conf
#     while seen=$(scripts/examples/cache.sh app.conf /etc/app.conf 50s); do
#         [ "$seen" = unchanged ] || ./reload
#     done
#
# It shows revalidation: curl sends the ETag of the copy (--etag-compare), and
# 304 says that the copy is still right; with a time, once that is over without a
# change (?wait). It prints `changed` or `unchanged`. If it fails, the copy stays
# as it is. The ETag is kept in FILE.etag. The key is as in a URL, percent-encoded.

set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 KEY FILE [TIME]" >&2
    exit 2
fi
value=${URL:-http://127.0.0.1:8888}/kv/$1${3:+?wait=$3}
file=$2

# A rename would put a file in the place of a device or a link, as /dev/stdout is.
for path in "$file" "$file.etag"; do
    if [ -L "$path" ] || { [ -e "$path" ] && [ ! -f "$path" ]; }; then
        echo "$0: no plain file: $path" >&2
        exit 2
    fi
done

# Beside the file, so that the new one takes its place at once.
new=$(mktemp -d "$file.XXXXXX")
trap 'rm -rf "$new"' EXIT
if [ -f "$file" ] && [ -f "$file.etag" ]; then
    cp "$file.etag" "$new/known"
else
    : >"$new/known"
fi

status=$(curl -fsS --etag-compare "$new/known" --etag-save "$new/etag" -o "$new/value" \
    -w '%{http_code}' "$value")
case $status in
    200) mv "$new/value" "$file" && mv "$new/etag" "$file.etag" && echo changed ;;
    304) echo unchanged ;;
    *) echo "the server answers $status" >&2 && exit 1 ;;
esac
