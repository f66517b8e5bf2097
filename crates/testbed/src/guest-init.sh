# Process 1 of a kernel node (crates/testbed, after machine-lib.sh). Its root is the host's, read-only;
# what it keeps is on its disk. Its state directory also holds
#   links        what `ip -batch` does to eth0 and eth1
#   console      what `ip -batch` does to the console's interface
#   logs         the path of the host's directory that is mounted at $hidden/logs

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
# What goes wrong is told in the console's log.
exec </dev/null >/dev/console 2>&1
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o mode=0620,ptmxmode=0666 devpts /dev/pts
ln -sf pts/ptmx /dev/ptmx
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
ln -sf /proc/self/fd /dev/fd
for n in 0:stdin 1:stdout 2:stderr; do ln -sf "/proc/self/fd/${n%:*}" "/dev/${n#*:}"; done

# A group with children may hold no process.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/init
echo $$ >/sys/fs/cgroup/init/cgroup.procs
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done

own_run
# The host reads logs while they are written, and a kill is a power failure: a second's worth is lost.
echo 100 >/proc/sys/vm/dirty_writeback_centisecs
echo 100 >/proc/sys/vm/dirty_expire_centisecs
mkdir "$hidden/disk" "$hidden/logs"
mount -t ext4 -o noatime,nodelalloc,commit=1 /dev/ubdb "$hidden/disk"
mount -t hostfs -o "$(cat "$state/logs")" logs "$hidden/logs"
while read -r source _; do mkdir -p "$source"; done <"$state/binds"
volatile=(/tmp)
cover
# The kubelet wants to know how fast processors are.
sed '/^bogomips/i cpu MHz\t\t: 2000.000' /proc/cpuinfo >"$hidden/cpuinfo"
mount --bind "$hidden/cpuinfo" /proc/cpuinfo
hostname "$name"

ip link set lo up
ip link set vec0 name eth0
ip link set vec1 name eth1
ip -batch "$state/links"
# The console is no interface of the node's: commands come in whatever happens to its links.
touch "$hidden/console"
unshare --net="$hidden/console" -- true
ip link set vec2 netns "$hidden/console"
nsenter --net="$hidden/console" -- ip -batch "$state/console"
mkdir -p /run/sshd
# sshd's own shell: one that reads no file of the person's.
sed -i 's|^\(root:.*\):[^:]*$|\1:/bin/sh|' /etc/passwd
cat >"$hidden/enter" <<'ENTER'
#!/bin/bash
cd /
command=${SSH_ORIGINAL_COMMAND:-exec bash -l}
# A shell that knows it came by ssh reads the person's own files first.
unset "${!SSH_@}"
exec nsenter --net=/proc/1/ns/net -- bash -c "$command"
ENTER
chmod 0700 "$hidden/enter"
mount --make-rshared /
supervise_all
reap
