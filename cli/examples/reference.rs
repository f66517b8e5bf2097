//! Writes `docs/cli.md`: `cargo run -p carrick-cli --example reference`. `cargo xtask gen` does the
//! same; `tests/reference.rs` fails when the file is stale.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    std::fs::write(path, carrick_cli::reference::reference())
}
