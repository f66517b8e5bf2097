# Process 1 of a machine in namespaces (crates/testbed, after machine-lib.sh): builds its mount
# namespace, then keeps its components running. Its state directory also holds
#   cgroups      directories to join, one a line

# Our process id and start time as the host sees them: /proc is still the host's.
read -r stat </proc/self/stat
host_pid=${stat%% *}
set -- ${stat##*) }
start_time=${20}

while read -r group; do echo 0 >"$group/cgroup.procs"; done <"$state/cgroups"

mount --make-rprivate /
# Copies of other namespaces' handles would keep those alive after their deletion.
umount --recursive --lazy /run/netns 2>/dev/null || :
own_run
mkdir "$hidden/cgroup"
mount --rbind /sys/fs/cgroup "$hidden/cgroup"
cover

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount --move "$hidden/cgroup" /sys/fs/cgroup
mount -t tmpfs -o mode=1777 shm /dev/shm
mount --make-rshared /
hostname "$name"
supervise_all

# Last: whoever waits for the file may enter the namespaces from now on.
echo "$host_pid $start_time" >"$state/init.partial"
mv "$state/init.partial" "$state/init"
reap
