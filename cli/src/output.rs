//! Standard output for data, standard error for talk.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For people and programs.
    Yaml,
}

/// Printing failed.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Standard output is closed or full.
    #[error("cannot write to standard output")]
    Write(#[from] io::Error),
    /// The value does not fit JSON.
    #[error("cannot write the result as JSON")]
    Json(#[source] serde_json::Error),
    /// The value does not fit YAML.
    #[error("cannot write the result as YAML")]
    Yaml(#[source] serde_saphyr::SerializeError),
}

impl OutputError {
    /// The reader went away (`carrickctl … | head`), which is no failure of ours.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Writes data and flushes.
pub fn out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Says something to the person. Whether anybody reads it is not our affair.
pub fn say(text: &str) {
    let _ = io::stderr()
        .lock()
        .write_all(format!("{text}\n").as_bytes());
}

/// The value as text in a machine's format, or `table()` for people.
pub fn render<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce() -> String,
) -> Result<String, OutputError> {
    match format {
        Format::Table => Ok(table()),
        Format::Json => {
            let mut text = serde_json::to_string_pretty(value).map_err(OutputError::Json)?;
            text.push('\n');
            Ok(text)
        }
        Format::Yaml => serde_saphyr::to_string(value).map_err(OutputError::Yaml),
    }
}

/// [`render`], then [`out`].
pub fn print<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce() -> String,
) -> Result<(), OutputError> {
    Ok(out(&render(format, value, table)?)?)
}
