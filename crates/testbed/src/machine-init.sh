#!/bin/bash
# Process 1 of a machine (crates/testbed): builds its mount namespace, then keeps its components
# running. Arguments: the machine's state directory and its name. The state directory holds
#   cgroups      directories to join, one a line
#   binds        SOURCE TARGET, one a line: what the machine keeps
#   resolv.conf, hosts
#   components/  one script a component; each ends in exec
# Everything else the machine writes to /etc, /opt and /var goes to memory and dies with it.
set -eu
state=$1 name=$2

# Our process id and start time as the host sees them: /proc is still the host's.
read -r stat </proc/self/stat
host_pid=${stat%% *}
set -- ${stat##*) }
start_time=${20}

while read -r group; do echo 0 >"$group/cgroup.procs"; done <"$state/cgroups"

mount --make-rprivate /
# Copies of other namespaces' handles would keep those alive after their deletion.
umount --recursive --lazy /run/netns 2>/dev/null || :
mount -t tmpfs -o mode=0755 run /run
mkdir -p /run/lock /run/netns
hidden=/run/machine
mkdir -m 0700 "$hidden"
mkdir "$hidden/cgroup" "$hidden/binds" "$hidden/components" "$hidden/stopped" "$hidden/pids"
cp "$state"/components/* "$hidden/components/"
cp "$state/resolv.conf" "$state/hosts" "$hidden/"
# Taken before anything is covered: sources may lie below what gets covered.
n=0
while read -r source target; do
    n=$((n + 1))
    mkdir "$hidden/binds/$n"
    mount --bind "$source" "$hidden/binds/$n"
    echo "$n $target" >>"$hidden/targets"
done <"$state/binds"
mount --rbind /sys/fs/cgroup "$hidden/cgroup"

for dir in etc opt var; do
    mkdir "$hidden/$dir" "$hidden/$dir/upper" "$hidden/$dir/work"
    mount -t overlay -o "lowerdir=/$dir,upperdir=$hidden/$dir/upper,workdir=$hidden/$dir/work" overlay "/$dir"
done
while read -r n target; do
    mkdir -p "$target"
    mount --move "$hidden/binds/$n" "$target"
done <"$hidden/targets"
rm -f /etc/resolv.conf
cp "$hidden/resolv.conf" "$hidden/hosts" /etc/

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount --move "$hidden/cgroup" /sys/fs/cgroup
mount -t tmpfs -o mode=1777 shm /dev/shm
mount --make-rshared /
hostname "$name"

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
cd /
for script in "$hidden"/components/*; do supervise "${script##*/}" & done

# Last: whoever waits for the file may enter the namespaces from now on.
echo "$host_pid $start_time" >"$state/init.partial"
mv "$state/init.partial" "$state/init"
# Bash takes leave of orphans (containerd's shims, pods' processes) while it waits.
while :; do wait || :; sleep 1; done
