#!/usr/bin/env bash
#
# Makes a container image, little-key-value, of the program alone.
#
#     scripts/package/image.sh             builds the program first, which takes minutes
#     scripts/package/image.sh PROGRAM     takes one without shared libraries
#
# It needs buildah, podman or docker.

set -euo pipefail
cd "$(dirname "$0")/../.."

tool=
for tool in buildah podman docker; do
    command -v "$tool" >/dev/null && break
    tool=
done
if [ -z "$tool" ]; then
    echo 'an image needs buildah, podman or docker' >&2
    exit 1
fi

program=${1:-}
if [ -z "$program" ]; then
    if [ "$(uname)" != Linux ]; then
        echo 'only Linux builds a program for an image' >&2
        exit 1
    fi
    host=$(rustc -vV | sed -n 's/^host: //p')
    RUSTFLAGS='-C target-feature=+crt-static' \
        cargo build --release --locked --target "$host" --target-dir target/static
    program=target/static/$host/release/little-key-value
fi

context=$(mktemp -d "${TMPDIR:-/tmp}/little-key-value.XXXXXX")
trap 'rm -rf "$context"' EXIT
mkdir "$context/data"
strip -o "$context/little-key-value" "$program"
# OCI's format has no health check.
BUILDAH_FORMAT=docker "$tool" build -t little-key-value -f scripts/package/Containerfile "$context"
