//! Logs: `tracing` to stderr.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl std::str::FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat {
                text: text.to_owned(),
            }),
        }
    }
}

/// A log format nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no log format: it is text or json")]
pub struct UnknownFormat {
    text: String,
}

/// Starting the logs failed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level or filter does not parse.
    #[error("{filter:?} is no log level or filter")]
    Filter {
        /// What was asked for.
        filter: String,
        /// The cause.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// A subscriber was already set.
    #[error("logs were already started")]
    Started(#[source] tracing_subscriber::util::TryInitError),
}

/// Starts logging at `level` (`info`, or any filter of tracing-subscriber: `info,kube=debug`).
/// Libraries that tell much at `info` and `debug` stay at `warn` unless the filter names them.
pub fn init(level: &str, format: Format) -> Result<(), TelemetryError> {
    let filter = filter(level)?;
    let registry = tracing_subscriber::registry().with(filter);
    let done = match format {
        Format::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_ansi(false),
            )
            .try_init(),
        Format::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    done.map_err(TelemetryError::Started)
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let parse = |text: &str| {
        EnvFilter::builder()
            .parse(text)
            .map_err(|source| TelemetryError::Filter {
                filter: level.to_owned(),
                source,
            })
    };
    // A filter that names targets is taken as it is.
    if level.contains(['=', ',']) {
        return parse(level);
    }
    parse(level)?;
    parse(&format!(
        "{level},hyper=warn,hyper_util=warn,h2=warn,tower=warn,rustls=warn,kube_client=warn,netlink_proto=warn"
    ))
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Wrappers often repeat what they wrap.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The first `most` names, and how many more there are.
pub fn some(names: &[impl AsRef<str>], most: usize) -> String {
    let shown: Vec<&str> = names.iter().take(most).map(AsRef::as_ref).collect();
    let list = shown.join(", ");
    match names.len().saturating_sub(most) {
        0 => list,
        more => format!("{list} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_short() {
        assert_eq!(some(&[] as &[&str], 2), "");
        assert_eq!(some(&["a", "b"], 2), "a, b");
        assert_eq!(some(&["a", "b", "c"], 2), "a, b and 1 more");
    }

    #[test]
    fn levels_and_filters_parse() {
        for good in ["error", "warn", "info", "debug", "trace", "info,kube=debug"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        assert!(filter("info,=x=").is_err());
        assert_eq!("json".parse(), Ok(Format::Json));
        assert!("xml".parse::<Format>().is_err());
    }
}
