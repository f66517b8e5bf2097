//! Events for what a person should notice (`kubectl describe`, `kubectl events`).

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tracing::warn;

use crate::client::{REQUEST_TIMEOUT, timely};

/// Longest note of an event in bytes (events.k8s.io validation).
const NOTE_LIMIT: usize = 1024;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something happened as it should.
    Normal,
    /// Something needs a person's attention.
    Warning,
}

/// Writes events in one component's name; equal ones become a series.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Events by `component` (`carrick-operator`), `instance` being its pod.
    #[must_use]
    pub fn new(client: Client, component: &str, instance: Option<String>) -> Self {
        let reporter = Reporter {
            controller: component.to_owned(),
            instance,
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Writes one event. `reason` is one CamelCase word, `action` what was being done, `note` a
    /// sentence. An event is a courtesy: a failure is logged here and nowhere else.
    pub async fn publish(
        &self,
        about: &ObjectReference,
        severity: Severity,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let mut end = note.len().min(NOTE_LIMIT);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        let event = Event {
            type_: match severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: reason.to_owned(),
            note: Some(note[..end].to_owned()),
            action: action.to_owned(),
            secondary: None,
        };
        let publish = self.recorder.publish(&event, about);
        if let Err(error) = timely("writing an event", REQUEST_TIMEOUT, publish).await {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            warn!(%error, cause, reason, "an event was not written");
        }
    }
}
