//! What a run's logs end with: for errors and failed tests.

use std::fs;
use std::path::Path;

/// Where the logs are and how each component's ends.
pub fn text<'a>(logs: &Path, machines: impl Iterator<Item = &'a str>) -> String {
    let mut text = format!("logs of this run: {}\n", logs.display());
    for machine in machines {
        let Ok(entries) = fs::read_dir(logs.join(machine)) else {
            continue;
        };
        let mut files: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        files.sort();
        for file in files {
            let end = tail(&file, 8);
            if !end.is_empty() {
                let name = file
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default();
                text.extend(["--- ", machine, "/", &name, "\n", &end]);
            }
        }
    }
    text
}

/// The last lines of a file, each with its end.
fn tail(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text.lines().collect();
    all.iter()
        .skip(all.len().saturating_sub(lines))
        .flat_map(|line| [*line, "\n"])
        .collect()
}
