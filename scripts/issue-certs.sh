#!/usr/bin/env bash
# Issues everything that an inventory names, before any of it runs: one bundle
# directory for each component and person, below DIRECTORY/bundles. Running it
# again makes what is missing and changes nothing else; exit code 3 says that
# something is not as the inventory says, and the table what.
#
#   scripts/issue-certs.sh INVENTORY DIRECTORY [flags of levee pki apply]
#
# The keys of the authorities are sealed: it asks for passphrases on the terminal,
# or --passphrase-fd and --passphrase-credential say where they are (--unsealed,
# for evaluation: nowhere). --dry-run shows what it would do.
#
# It is `levee pki apply` with the levee of this checkout, or the one that LEVEE
# names. An inventory to begin with: levee pki init inventory.yaml
set -euo pipefail

if [ $# -lt 2 ]; then
	sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
	exit 2
fi
inventory=$1 directory=$2
shift 2

if [ -z "${LEVEE:-}" ]; then
	built=$(mktemp -d)
	trap 'rm -rf "$built"' EXIT
	go build -C "$(dirname "$0")/.." -o "$built/levee" ./cmd/levee </dev/null
	LEVEE=$built/levee
fi
"$LEVEE" pki apply --inventory "$inventory" --out "$directory" "$@"
