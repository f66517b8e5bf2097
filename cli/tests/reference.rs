//! The reference in `docs/` says what the program does.

use std::path::Path;

#[test]
fn docs_cli_is_not_stale() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == carrick_cli::reference::reference(),
        "docs/cli.md is stale: run `cargo run -p carrick-cli --example reference`"
    );
}
