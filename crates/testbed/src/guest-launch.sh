#!/bin/bash
# Starts the kernel of a kernel node (crates/testbed) and holds its console's connection open. Arguments:
# state directory, the fabric's namespace, processor, library to preload, the kernel and its words.
# Everything is in the machine's control group, so killing that kills everything.
set -eu
state=$1 fabric=$2 processor=$3 preload=$4
shift 4
while read -r group; do echo 0 >"$group/cgroup.procs"; done <"$state/cgroups"

# The connection comes when the guest answers and again when it was lost.
connection() {
    while sleep 0.1; do
        nsenter --net="/run/netns/$fabric" -- ssh -F "$state/ssh.conf" -o ControlMaster=yes -N node || :
    done
}
connection </dev/null >/dev/null 2>&1 &

# Our process id and start time become the kernel's: from here on only exec.
read -r stat <"/proc/$$/stat"
start=${stat##*) }
read -ra fields <<<"$start"
echo "$$ ${fields[19]}" >"$state/init.partial"
mv "$state/init.partial" "$state/init"
exec nsenter --net="/run/netns/$fabric" -- taskset -c "$processor" env -i LD_PRELOAD="$preload" HOME=/root PATH="$PATH" "$@"
