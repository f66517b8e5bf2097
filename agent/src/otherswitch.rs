//! Whether the host runs an Open vSwitch of its own: then nothing may be written.
//!
//! `carrick switch` refuses such a host, too, and ends; here it becomes a condition of the node, and
//! is seen also when the other one is started while ours runs.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use carrick_api::names::link;
use carrick_ovsdb::foreign::{Foreign, Places, find};
use tokio::time::Instant;

use crate::paths::Paths;

/// How often it is looked for while none is there. It costs a list of the host's sockets.
const LOOK: Duration = Duration::from_secs(10);

/// Looks for another switch, and not too often.
#[derive(Debug)]
pub struct OtherSwitch {
    ours: Vec<PathBuf>,
    absent: Option<Instant>,
}

impl OtherSwitch {
    /// Knows what is ours; has looked for nothing yet.
    pub fn new(paths: &Paths) -> Self {
        Self {
            ours: vec![paths.switch.clone()],
            absent: None,
        }
    }

    /// What was found; the first call looks, later ones look again after some time, and every time
    /// while another switch is there.
    ///
    /// # Errors
    /// The kernel's list of sockets cannot be read.
    pub fn find(&mut self) -> io::Result<Option<Foreign>> {
        if self.absent.is_some_and(|when| when.elapsed() < LOOK) {
            return Ok(None);
        }
        let mut ours = self.ours.clone();
        // A directory that is reached by a link: sockets are listed as they were bound.
        ours.extend(
            ours.iter()
                .filter_map(|path| path.canonicalize().ok())
                .collect::<Vec<_>>(),
        );
        let found = find(&Places::of_host(&ours, link::is_switch_port))?;
        self.absent = found.is_none().then(Instant::now);
        Ok(found)
    }
}
