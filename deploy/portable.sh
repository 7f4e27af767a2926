#!/usr/bin/env bash
# Builds the program for portable media: postern with the C library inside, as postern-static beside the usual programs.
# What was built before is used again; the next `cargo build` puts the usual postern in its place.
#
#   deploy/portable.sh && target/release/postern keypack export --client target/release/postern-static --portable DIR
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo rustc --release --locked -p smtp-bridge --bin postern -- -C target-feature=+crt-static
built=${CARGO_TARGET_DIR:-target}/release
cp "$built/postern" "$built/postern-static"
echo "$built/postern-static"
