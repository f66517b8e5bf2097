# What both kinds of machine do (machine-init.sh, guest-init.sh), given `state`, the machine's state
# directory, and `name`. The state directory holds
#   binds        SOURCE TARGET, one a line: what the machine keeps
#   resolv.conf, hosts
#   components/  one script a component; each ends in exec
# Everything else the machine writes to /etc, /opt and /var goes to memory and dies with it.
set -eu
hidden=/run/machine
# Directories that are empty at the start and in memory.
volatile=()

# A /run of the machine's own, with what is needed later out of the state directory.
own_run() {
    mount -t tmpfs -o mode=0755 run /run
    mkdir -p /run/lock /run/netns
    mkdir -m 0700 "$hidden"
    mkdir "$hidden/binds" "$hidden/components" "$hidden/stopped" "$hidden/pids"
    cp "$state"/components/* "$hidden/components/"
    cp "$state/resolv.conf" "$state/hosts" "$hidden/"
}

# Covers the host's directories and puts what the machine keeps on top.
cover() {
    # Taken before anything is covered: sources may lie below what gets covered.
    n=0
    while read -r source target; do
        n=$((n + 1))
        mkdir "$hidden/binds/$n"
        mount --bind "$source" "$hidden/binds/$n"
        echo "$n $target" >>"$hidden/targets"
    done <"$state/binds"
    for dir in etc opt var; do
        mkdir "$hidden/$dir" "$hidden/$dir/upper" "$hidden/$dir/work"
        mount -t overlay -o "lowerdir=/$dir,upperdir=$hidden/$dir/upper,workdir=$hidden/$dir/work" overlay "/$dir"
    done
    for dir in "${volatile[@]}"; do mount -t tmpfs -o mode=1777 volatile "$dir"; done
    while read -r n target; do
        mkdir -p "$target"
        mount --move "$hidden/binds/$n" "$target"
    done <"$hidden/targets"
    rm -f /etc/resolv.conf
    cp "$hidden/resolv.conf" "$hidden/hosts" /etc/
}

# The stop file is looked at before each start, so that a component that was stopped stays so.
supervise() {
    component=$1
    while :; do
        while [ -e "$hidden/stopped/$component" ]; do sleep 0.1; done
        bash "$hidden/components/$component" >>"/var/log/$component.log" 2>&1 </dev/null &
        echo $! >"$hidden/pids/$component"
        code=0
        wait $! || code=$?
        rm -f "$hidden/pids/$component"
        echo "--- $component ended with $code" >>"/var/log/$component.log"
        sleep 0.3
    done
}

supervise_all() {
    cd /
    for script in "$hidden"/components/*; do supervise "${script##*/}" & done
}

# Bash takes leave of orphans (containerd's shims, pods' processes) while it waits.
reap() { while :; do wait || :; sleep 1; done; }
