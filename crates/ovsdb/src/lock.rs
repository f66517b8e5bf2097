//! Locks between clients (RFC 7047 §4.1.8–§4.1.10): at most one client holds a name at a time.
//!
//! A transaction that must not run without the lock carries
//! [`Operation::Assert`](crate::operation::Operation::Assert): what [`Lock::is_held`] says may be
//! old by the time the server reads.

use tokio::sync::watch;

use crate::client::Client;

/// How a lock is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taking {
    /// When those before have given it back (§4.1.8).
    InTurn,
    /// At once, from whoever holds it (§4.1.9).
    ByForce,
}

impl Taking {
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::InTurn => "lock",
            Self::ByForce => "steal",
        }
    }
}

/// A lock that was asked for, and is given back when this is dropped. It is asked for again, in
/// turn, on each new connection.
#[derive(Debug)]
pub struct Lock {
    id: u64,
    name: String,
    held: watch::Receiver<bool>,
    client: Client,
}

impl Lock {
    pub(crate) fn new(id: u64, name: String, held: watch::Receiver<bool>, client: Client) -> Self {
        Self {
            id,
            name,
            held,
            client,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this client holds it, as far as the server has told. Without a connection nobody
    /// knows, and this says no.
    #[must_use]
    pub fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    /// Waits until this client holds it. There is no deadline: the caller sets one.
    pub async fn held(&self) {
        self.wait(true).await;
    }

    /// Waits until this client does not hold it: another stole it, or the connection is lost.
    pub async fn lost(&self) {
        self.wait(false).await;
    }

    async fn wait(&self, wanted: bool) {
        let mut held = self.held.clone();
        // The sender goes with the client's task, which this value's client keeps.
        if held.wait_for(|held| *held == wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.client.unlock(self.id);
    }
}
