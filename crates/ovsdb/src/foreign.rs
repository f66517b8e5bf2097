//! Open vSwitch on this host that is not ours: two of them remove each other's ports.
//!
//! Both `carrick switch`, before it starts anything, and the agent, before it writes anything, ask
//! [`find`]. Ours is told by its run directory, whichever start of it made what is found there, and
//! by the names of its ports.
//!
//! `/proc/net/unix` lists the sockets of the network namespace whatever process and mount namespace
//! they are in, so neither the host's processes nor its `/run` need to be seen.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The kernel's name for the controller of everything its datapath has as a port.
const KERNEL_DATAPATH: &str = "ovs-system";
/// How many ports a message names.
const EXAMPLES: usize = 3;
/// `SO_ACCEPTCON` in the flags of `/proc/net/unix`.
const LISTENS: u32 = 1 << 16;

/// Where to look, and what is ours there.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Mostly `/proc/net/unix`.
    pub sockets: &'a Path,
    /// Mostly `/sys/class/net`; an absent one shows no links.
    pub links: &'a Path,
    /// Our run directory, by every name that sockets may have been bound under.
    pub run_dirs: &'a [PathBuf],
    /// Whether a port of the kernel's datapath may be ours, by its name.
    pub is_ours: fn(&str) -> bool,
}

impl<'a> Places<'a> {
    /// This host's.
    #[must_use]
    pub fn of_host(run_dirs: &'a [PathBuf], is_ours: fn(&str) -> bool) -> Self {
        Self {
            sockets: Path::new("/proc/net/unix"),
            links: Path::new("/sys/class/net"),
            run_dirs,
            is_ours,
        }
    }
}

/// What was found. Its text says what, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreign {
    /// ovs-vswitchd runs.
    Switch {
        /// Its control socket.
        socket: PathBuf,
    },
    /// Its database is served: ovs-vswitchd is about to start, or starts again.
    Database {
        /// The socket.
        socket: PathBuf,
    },
    /// Nothing runs, but the kernel's datapath still has ports that another one made: a new
    /// ovs-vswitchd removes what its database does not know, and a host that has its addresses on
    /// such a bridge is cut off.
    Ports {
        /// Some of them.
        ports: Vec<String>,
        /// How many there are.
        count: usize,
    },
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STOP: &str = "and two would remove each other's ports. Stop and disable it (on Debian: \
                            systemctl disable --now openvswitch-switch), or take this node out of Carrick";
        match self {
            Self::Switch { socket } => write!(
                f,
                "this host already runs an Open vSwitch of its own (its control socket is {}), {STOP}",
                socket.display()
            ),
            Self::Database { socket } => write!(
                f,
                "this host already runs the database of an Open vSwitch of its own (its socket is {}), {STOP}",
                socket.display()
            ),
            Self::Ports { ports, count } => {
                write!(
                    f,
                    "the kernel's datapath {KERNEL_DATAPATH} has ports that another Open vSwitch left ({}",
                    ports.join(", ")
                )?;
                if ports.len() < *count {
                    write!(f, " and {} more", count - ports.len())?;
                }
                write!(
                    f,
                    "), and ours would remove them. Move the host's addresses off its bridges, then remove the \
                     datapath (ovs-dpctl del-dp {KERNEL_DATAPATH}) or reboot with that Open vSwitch disabled; or take \
                     this node out of Carrick"
                )
            }
        }
    }
}

/// Looks for an Open vSwitch that is not ours. Reads only.
///
/// # Errors
/// The list of sockets cannot be read; the path is the caller's.
pub fn find(places: &Places<'_>) -> io::Result<Option<Foreign>> {
    let sockets = std::fs::read(places.sockets)?;
    if let Some(found) = by_socket(&sockets, places.run_dirs) {
        return Ok(Some(found));
    }
    Ok(by_port(places.links, places.is_ours))
}

fn by_socket(sockets: &[u8], run_dirs: &[PathBuf]) -> Option<Foreign> {
    let mut database = None;
    for line in sockets.split(|byte| *byte == b'\n') {
        let Some(path) = listening(line) else {
            continue;
        };
        let path = Path::new(OsStr::from_bytes(path));
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        if run_dirs.iter().any(|ours| ours == parent) {
            continue;
        }
        if is_control_socket(name.as_bytes()) {
            return Some(Foreign::Switch {
                socket: path.to_owned(),
            });
        }
        // Others (OVN, a hardware VTEP) serve their own databases by other names or elsewhere.
        if name == "db.sock" && parent.file_name() == Some(OsStr::new("openvswitch")) {
            database.get_or_insert_with(|| path.to_owned());
        }
    }
    database.map(|socket| Foreign::Database { socket })
}

/// The path of a socket that somebody listens on, of a line of `/proc/net/unix`.
fn listening(line: &[u8]) -> Option<&[u8]> {
    let mut words = line
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty());
    let flags = std::str::from_utf8(words.nth(3)?).ok()?;
    let listens = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & LISTENS != 0);
    // Type, state and inode are between them.
    let path = words.nth(3)?;
    (listens && path.starts_with(b"/")).then_some(path)
}

/// `ovs-vswitchd.PID.ctl`, or without the PID.
fn is_control_socket(name: &[u8]) -> bool {
    name.strip_prefix(b"ovs-vswitchd.")
        .is_some_and(|rest| rest == b"ctl" || rest.ends_with(b".ctl"))
}

fn by_port(links: &Path, is_ours: fn(&str) -> bool) -> Option<Foreign> {
    let mut ports: Vec<String> = std::fs::read_dir(links)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|link| {
            std::fs::read_link(link.path().join("master"))
                .is_ok_and(|controller| controller.file_name() == Some(KERNEL_DATAPATH.as_ref()))
        })
        .filter_map(|link| link.file_name().into_string().ok())
        .filter(|name| !is_ours(name))
        .collect();
    ports.sort_unstable();
    let count = ports.len();
    ports.truncate(EXAMPLES);
    (count > 0).then_some(Foreign::Ports { ports, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(paths: &[&str]) -> Vec<u8> {
        let mut text = b"Num RefCount Protocol Flags Type St Inode Path\n".to_vec();
        for path in paths {
            text.extend(format!("ffff: 00000002 00000000 00010000 0001 01 1234 {path}\n").bytes());
        }
        text
    }

    fn found(paths: &[&str]) -> Option<Foreign> {
        by_socket(
            &sockets(paths),
            &[PathBuf::from("/run/carrick/openvswitch")],
        )
    }

    #[test]
    fn another_switch_is_found_by_its_sockets() {
        let ours = "/run/carrick/openvswitch/ovs-vswitchd.ctl";
        let our_database = "/run/carrick/openvswitch/db.sock";
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[ours, our_database, "@abstract", ""]), None);
        let theirs = "/var/run/openvswitch/ovs-vswitchd.812.ctl";
        let socket = PathBuf::from(theirs);
        let database = "/run/openvswitch/db.sock";
        let expected = Some(Foreign::Switch { socket });
        assert_eq!(found(&[ours, database, theirs]), expected);
        assert!(found(&["/elsewhere/ovs-vswitchd.ctl"]).is_some());
        let socket = PathBuf::from(database);
        assert_eq!(
            found(&[our_database, database]),
            Some(Foreign::Database { socket })
        );
        for other in [
            "/run/openvswitch/ovsdb-server.7.ctl",
            "/run/ovn/ovnnb_db.sock",
            "/run/ovn/db.sock",
            "/run/ovs-vswitchd.ctl.d/x",
        ] {
            assert_eq!(found(&[other]), None, "{other}");
        }
    }

    #[test]
    fn a_connection_to_a_socket_is_not_the_socket() {
        let line = b"ffff: 00000003 00000000 00000000 0001 03 99 /run/openvswitch/db.sock";
        assert_eq!(by_socket(line, &[]), None);
        assert_eq!(by_socket(b"\xff\xff \n: : :\nx", &[]), None);
    }

    #[test]
    fn ports_left_in_the_kernels_datapath_are_found_unless_they_are_ours() {
        let directory = tempfile::tempdir().unwrap();
        let links = directory.path();
        let link = |name: &str, controller: Option<&str>| {
            let link = links.join(name);
            std::fs::create_dir(&link).unwrap();
            if let Some(controller) = controller {
                let target = format!("../{controller}");
                std::os::unix::fs::symlink(target, link.join("master")).unwrap();
            }
        };
        let ours = |name: &str| name.starts_with("car");
        assert_eq!(by_port(&links.join("absent"), ours), None);
        link("eth0", None);
        link("veth1", Some("cni0"));
        link("car0123456789ab", Some("ovs-system"));
        assert_eq!(by_port(links, ours), None);
        for port in ["eth1", "a", "b", "c"] {
            link(port, Some("ovs-system"));
        }
        let found = by_port(links, ours).unwrap();
        let text = found.to_string();
        assert!(text.contains("(a, b, c and 1 more)"), "{text}");
    }
}
