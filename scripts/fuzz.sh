#!/usr/bin/env bash
# Runs the fuzz targets of the module one after another, each for DURATION
# (10m if absent), and prints one line for each: how many inputs were tried, how
# many of them reached code that none had reached before, and what came of it.
#
#   scripts/fuzz.sh [DURATION [NAME...]]
#
# NAME is a target such as FuzzOpen, or envelope/replay.FuzzOpen where several
# packages have one of that name. WORKERS says how many processes a target gets,
# 1 if absent. An input that fails is kept below the package's testdata/fuzz,
# where every later `go test` runs it; then the exit code is 1. It needs Go, and
# for test/vectors.FuzzAgainstPython python3.
set -uo pipefail
cd "$(dirname "$0")/.."

duration=${1:-10m}
shift $(($# > 0 ? 1 : 0))
case $duration in [0-9]*) ;; *)
	sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac

# Packages are found by what stands in their files, so that only those with a
# target that is wanted are built; what go lists is what this system can build.
functions=Fuzz
if [ $# -gt 0 ]; then functions=$(printf '%s\n' "${@##*.}" | paste -sd '|'); fi
targets=() # package.Name
for dir in $(grep -rlE --include='*_test.go' --exclude-dir=node_modules "^func ($functions)" . | xargs -r -n 1 dirname | sort -u); do
	if ! list=$(go test -list '^Fuzz' "$dir"); then
		echo "$list" >&2
		exit 1
	fi
	for name in $(grep '^Fuzz' <<<"$list"); do
		target=${dir#./}.$name
		if [ $# -eq 0 ]; then targets+=("$target"); fi
		for wanted; do
			if [ "$wanted" = "$target" ] || [ "$wanted" = "$name" ]; then targets+=("$target"); fi
		done
	done
done
for wanted; do
	if [[ " ${targets[*]} " != *[\ .]"$wanted "* ]]; then
		echo "no fuzz target is called $wanted" >&2
		exit 2
	fi
done
if [ ${#targets[@]} -eq 0 ]; then
	echo "there are no fuzz targets" >&2
	exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM
findings=0
for target in "${targets[@]}"; do
	dir=${target%.*} name=${target##*.}
	go test -v "./$dir" -run '^$' -fuzz "^$name\$" -fuzztime "$duration" -fuzzminimizetime 2s -parallel "${WORKERS:-1}" -timeout 0 >"$log" 2>&1
	code=$?
	counts=$(sed -n 's/^fuzz: elapsed.*execs: \([0-9]*\).*new interesting: \([0-9]*\).*/\1 inputs, \2 new/p' "$log" | tail -n 1)
	result=ok
	if grep -q '^--- SKIP' "$log"; then
		result=$(grep -o 'SKIPPED:.*' "$log" || echo skipped)
	elif [ $code -ne 0 ] && grep -q '^ *context deadline exceeded$' "$log" && ! grep -q 'Failing input written\|seed corpus entry\|_test\.go:\|panic:' "$log"; then
		result="ok (Go ended it late: golang/go#75804)"
	elif [ $code -ne 0 ]; then
		result=FAILED
		findings=$((findings + 1))
	fi
	printf '%-50s %s: %s\n' "$target" "${counts:-nothing counted}" "$result"
	if [ "$result" = FAILED ]; then
		cut -c 1-1000 "$log" | grep -v '^fuzz: elapsed' | sed 's/^/    /'
		sed -n "s|.*Failing input written to |    kept in $dir/|p" "$log"
	fi
done
exit $((findings > 0))
