//! Writes `src/generated/carrick.v1.rs` from `proto/`: `cargo run -p carrick-proto --example generate`.
//!
//! The generated code is committed, so that no build needs `protoc` or any of the crates used here;
//! `tests/generated.rs` fails when it is stale. `cargo xtask gen` runs this example.

use std::error::Error;
use std::path::{Path, PathBuf};

/// The generated file, below the crate's directory.
pub const OUTPUT: &str = "src/generated/carrick.v1.rs";
const INPUT: &str = "proto/carrick/v1/distribution.proto";

/// The text that [`OUTPUT`] must have.
pub fn generate(crate_dir: &Path) -> Result<String, Box<dyn Error>> {
    let includes = crate_dir.join("proto");
    let descriptors = protox::compile([crate_dir.join(INPUT)], [includes])?;
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(std::fs::read_to_string(out.path().join("carrick.v1.rs"))?)
}

/// Where this crate is.
pub fn crate_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[allow(
    dead_code,
    reason = "tests/generated.rs includes this file as a module"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let dir = crate_dir();
    let text = generate(&dir)?;
    std::fs::write(dir.join(OUTPUT), text)?;
    Ok(())
}
