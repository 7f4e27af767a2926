#!/bin/sh
# Runs Postern from this medium and leaves nothing on the computer.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd) || exit 1
POSTERN_DIR=$here/data
export POSTERN_DIR
[ $# -gt 0 ] || set -- run
if [ -x "$here/postern" ]; then
    exec "$here/postern" "$@"
fi
# Many systems let no program on a stick be run: it runs from memory, or from where the system keeps what is passing.
room=$(mktemp -d "${XDG_RUNTIME_DIR:-/tmp}/postern.XXXXXX") || exit 1
trap 'rm -rf "$room"' EXIT
trap : INT TERM
cp "$here/postern" "$room/postern" && chmod 700 "$room/postern" || exit 1
"$room/postern" "$@"
