#!/usr/bin/env bash
# Issues everything that an inventory names, before any of it runs: one bundle
# directory for each component and person, below DIRECTORY/bundles. Running it
# again makes what is missing and changes nothing else.
#
#   scripts/issue-certs.sh INVENTORY DIRECTORY [flags of levee pki apply]
#
# It is `levee pki apply` with the levee of this checkout, or the one that LEVEE
# names. An inventory to begin with: levee pki init inventory.yaml
set -euo pipefail

if [ $# -lt 2 ]; then
	sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
	exit 2
fi
inventory=$1 directory=$2
shift 2

if [ -z "${LEVEE:-}" ]; then
	built=$(mktemp -d)
	trap 'rm -rf "$built"' EXIT
	go build -C "$(dirname "$0")/.." -o "$built/levee" ./cmd/levee
	LEVEE=$built/levee
fi
"$LEVEE" pki apply --inventory "$inventory" --out "$directory" "$@"
