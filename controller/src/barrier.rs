//! Reads what there is of policy for new pods, and lets their records go when all of it was seen.
//!
//! One namespace is one question, for all of its pods that wait at that moment; pods that come
//! while it is asked are in the next. A standby asks, too, so that it does not begin its term with
//! every pod that came since it started, but it takes its time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cluster::Cluster;
use crate::hub::Hub;
use crate::reign::Reign;

/// Questions at one time.
const AT_ONCE: usize = 16;
/// How long a standby lets pods of a namespace gather.
const STANDBY: Duration = Duration::from_secs(2);
/// How long watches may take to show what was read, before it is read again: what was read may be
/// gone by then, and is never seen.
const CATCH_UP: Duration = Duration::from_secs(1);
/// How long after a failure a namespace is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Lets records of new pods go, until `stop`.
pub struct Barrier<C> {
    pub(crate) hub: Arc<Hub>,
    pub(crate) cluster: Arc<C>,
    pub(crate) reign: Reign,
}

impl<C: Cluster> Barrier<C> {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut asked: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut questions = FuturesUnordered::new();
        let mut seen = self.hub.seen();
        let mut last: Option<Arc<str>> = None;
        loop {
            let mut waiting = self.hub.withholding();
            // In turn: some that wait for long keep nobody else waiting.
            let next = waiting.partition_point(|namespace| Some(namespace) <= last.as_ref());
            waiting.rotate_left(next);
            for namespace in waiting {
                if asked.len() >= AT_ONCE {
                    break;
                }
                if asked.insert(Arc::clone(&namespace)) {
                    last = Some(Arc::clone(&namespace));
                    questions.push(self.question(namespace));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some(namespace) = questions.next() => {
                    asked.remove(&namespace);
                }
                changed = seen.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Asks for one namespace, and lets its pods go if it can; then it is done with.
    async fn question(&self, namespace: Arc<str>) -> Arc<str> {
        if self.reign.term().is_none() {
            tokio::time::sleep(STANDBY).await;
        }
        // Before the question: the answer is of a time when these pods were there.
        let pods = self.hub.withheld(&namespace);
        if pods.is_empty() {
            return namespace;
        }
        let listed = match self.cluster.policy_for(&namespace).await {
            Ok(listed) => listed,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%namespace, pods = pods.len(), %error, cause, "new pods wait: the policies of their namespace cannot be read now");
                tokio::time::sleep(AGAIN).await;
                return namespace;
            }
        };
        let mut seen = self.hub.seen();
        let caught_up = async {
            while !self.hub.vouch(&namespace, &listed, &pods) {
                if seen.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(CATCH_UP, caught_up).await.is_err() {
            debug!(%namespace, pods = pods.len(), "new pods wait: not all policies that were read were seen yet");
        }
        namespace
    }
}
