//! Network namespaces for tests, gone with their values.

#![expect(
    clippy::panic,
    reason = "what fails here is the test's own ground: it says so and ends it"
)]

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A namespace of `ip netns`, deleted when this is dropped. Its name carries the process's id and a
/// number, so that tests run side by side.
#[derive(Debug)]
pub struct Scratch {
    name: String,
}

impl Scratch {
    /// Makes an empty one.
    ///
    /// # Panics
    /// Without root or iproute2.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "it makes something in the kernel"
    )]
    pub fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cks-{}-{number}", std::process::id());
        tool("ip", &["netns", "add", &name]);
        Self { name }
    }

    /// Its name, as `ip -n` takes it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs a program in it; what that prints.
    ///
    /// # Panics
    /// See [`tool`].
    pub fn exec(&self, program: &str, arguments: &[&str]) -> String {
        let mut all = vec!["netns", "exec", &self.name, program];
        all.extend(arguments);
        tool("ip", &all)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody is there to be told.
        Command::new("ip")
            .args(["netns", "del", &self.name])
            .status()
            .ok();
    }
}

/// Runs a program; what it prints.
///
/// # Panics
/// When it is not installed, fails, or prints what is no text.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(error) => panic!("{program} is missing, install it: {error}"),
    };
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    match String::from_utf8(output.stdout) {
        Ok(text) => text,
        Err(error) => panic!("{program} {arguments:?} prints no text: {error}"),
    }
}
