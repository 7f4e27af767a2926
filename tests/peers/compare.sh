#!/usr/bin/env bash
# Postern side by side with Postfix, Dovecot and PostgreSQL: the one command. What it takes and does: compare.py --help.
set -euo pipefail
exec python3 "$(dirname "${BASH_SOURCE[0]}")/compare.py" "$@"
