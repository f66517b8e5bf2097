# Imports image archives into DIR/containerd with a containerd of its own. In a mount namespace: what it
# mounts goes with it.
set -euo pipefail
dir=$1
shift
run=$(mktemp -d)
cat >"$run/config.toml" <<CONFIG
version = 2
root = "$dir/containerd"
state = "$run/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$run/socket"
CONFIG
containerd --config "$run/config.toml" >"$run/log" 2>&1 &
pid=$!
end() {
    kill "$pid" 2>/dev/null && wait "$pid" || :
    rm -rf "$run"
}
trap end EXIT
until ctr --address "$run/socket" version >/dev/null 2>&1; do
    kill -0 "$pid" 2>/dev/null || { cat "$run/log" >&2; exit 1; }
    sleep 0.05
done
for archive in "$@"; do ctr --address "$run/socket" -n k8s.io images import "$archive"; done
