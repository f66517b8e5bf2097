//! Tokens, judged by the API server, seldom.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use carrick_proto::NodeName;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cluster::{Cluster, Refusal};

/// Longest token that is looked at, in bytes.
const TOKEN_LIMIT: usize = 16 * 1024;
/// TokenReviews under way at once: at a few milliseconds each this is thousands a second for the
/// start of a large cluster, and never more load than this many requests.
const CONCURRENT: usize = 16;
/// How long a caller waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// How long an accepted token is believed without asking again. A pod that is gone loses its
/// token; its agent may open a stream for this long after.
const ACCEPTED_FOR: Duration = Duration::from_mins(1);
/// How long a refused token stays refused without asking again.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Tokens remembered: more than the largest cluster has agents.
const REMEMBERED: usize = 8192;

type Fingerprint = [u8; 32];
type Verdict = Result<NodeName, Refusal>;

/// Judges tokens. Remembers their SHA-256, never the tokens.
pub struct Authenticator<C> {
    cluster: Arc<C>,
    turns: Semaphore,
    verdicts: Mutex<HashMap<Fingerprint, (Verdict, Instant)>>,
}

impl<C: Cluster> Authenticator<C> {
    /// Remembers nothing.
    #[must_use]
    pub fn new(cluster: Arc<C>) -> Self {
        Self {
            cluster,
            turns: Semaphore::new(CONCURRENT),
            verdicts: Mutex::default(),
        }
    }

    /// The node the token is bound to.
    pub async fn node_of(&self, token: &str) -> Verdict {
        if token.is_empty() || token.len() > TOKEN_LIMIT {
            return Err(Refusal::Invalid);
        }
        let fingerprint: Fingerprint = Sha256::digest(token.as_bytes()).into();
        if let Some(verdict) = self.remembered(&fingerprint) {
            return verdict;
        }
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            let problem = "too many tokens wait to be checked".to_owned();
            return Err(Refusal::Unavailable { problem });
        };
        // Another stream with the same token may have been ahead in the queue.
        if let Some(verdict) = self.remembered(&fingerprint) {
            return verdict;
        }
        let verdict = self.cluster.review(token).await;
        let keep = match &verdict {
            Ok(_) => ACCEPTED_FOR,
            Err(Refusal::Unavailable { .. }) => return verdict,
            Err(_) => REFUSED_FOR,
        };
        self.remember(fingerprint, &verdict, keep);
        verdict
    }

    fn remembered(&self, fingerprint: &Fingerprint) -> Option<Verdict> {
        let verdicts = self.verdicts.lock();
        let (verdict, until) = verdicts.get(fingerprint)?;
        (Instant::now() < *until).then(|| verdict.clone())
    }

    fn remember(&self, fingerprint: Fingerprint, verdict: &Verdict, keep: Duration) {
        let now = Instant::now();
        let mut verdicts = self.verdicts.lock();
        if verdicts.len() >= REMEMBERED {
            verdicts.retain(|_, (_, until)| now < *until);
        }
        if verdicts.len() >= REMEMBERED {
            // Somebody sends many bad tokens: forget those first, then everything.
            verdicts.retain(|_, (verdict, _)| verdict.is_ok());
        }
        if verdicts.len() >= REMEMBERED {
            verdicts.clear();
        }
        verdicts.insert(fingerprint, (verdict.clone(), now + keep));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeCluster;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_asked_for_once_a_minute() {
        let cluster = Arc::new(FakeCluster::default());
        cluster.token("good", "a");
        let auth = Authenticator::new(Arc::clone(&cluster));
        for _ in 0..5 {
            assert_eq!(auth.node_of("good").await.unwrap().as_str(), "a");
            assert_eq!(auth.node_of("bad").await, Err(Refusal::Invalid));
        }
        assert_eq!(cluster.reviews(), 2);
        tokio::time::advance(Duration::from_secs(11)).await;
        let _ = auth.node_of("bad").await;
        let _ = auth.node_of("good").await;
        assert_eq!(cluster.reviews(), 3);
        tokio::time::advance(Duration::from_mins(1)).await;
        let _ = auth.node_of("good").await;
        assert_eq!(cluster.reviews(), 4);
    }

    #[tokio::test]
    async fn oversized_tokens_are_not_asked_for() {
        let cluster = Arc::new(FakeCluster::default());
        let auth = Authenticator::new(Arc::clone(&cluster));
        assert_eq!(
            auth.node_of(&"x".repeat(TOKEN_LIMIT + 1)).await,
            Err(Refusal::Invalid)
        );
        assert_eq!(auth.node_of("").await, Err(Refusal::Invalid));
        assert_eq!(cluster.reviews(), 0);
    }

    #[tokio::test]
    async fn an_absent_api_server_is_not_a_refusal_to_remember() {
        let cluster = Arc::new(FakeCluster::default());
        cluster.token("good", "a");
        cluster.away(true);
        let auth = Authenticator::new(Arc::clone(&cluster));
        assert!(matches!(
            auth.node_of("good").await,
            Err(Refusal::Unavailable { .. })
        ));
        cluster.away(false);
        assert!(auth.node_of("good").await.is_ok());
    }

    #[tokio::test]
    async fn many_bad_tokens_do_not_grow_the_memory() {
        let cluster = Arc::new(FakeCluster::default());
        let auth = Authenticator::new(Arc::clone(&cluster));
        for i in 0..=REMEMBERED {
            let _ = auth.node_of(&format!("bad-{i}")).await;
        }
        assert!(auth.verdicts.lock().len() <= REMEMBERED);
    }
}
