#!/bin/bash
# Runs a program on a kernel node (crates/testbed): state directory, the fabric's namespace, the program and
# its words. Exit code and streams are the program's; a terminal comes along when there is one.
state=$1 fabric=$2
shift 2
words=exec
[ -z "${KUBECONFIG:-}" ] || set -- env "KUBECONFIG=$KUBECONFIG" "$@"
for word; do words+=" '${word//\'/\'\\\'\'}'"; done
terminal=-T
[ -t 0 ] && terminal=-t
exec nsenter --net="/run/netns/$fabric" -- ssh -F "$state/ssh.conf" "$terminal" node "$words"
