//! Writes the CRDs into the directories named on the command line.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    for dir in std::env::args().skip(1) {
        std::fs::create_dir_all(&dir)?;
        for (name, text) in carrick_api::crd_yaml()? {
            std::fs::write(std::path::Path::new(&dir).join(name), text)?;
        }
    }
    Ok(())
}
