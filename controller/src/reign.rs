//! Whether this replica serves, as streams see it.

use std::sync::Arc;

use carrick_k8s::elector::{Election, Leadership};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::hub::Hub;

/// What this replica is.
#[derive(Debug, Clone)]
pub enum Rule {
    /// Another serves, at this address if it is known.
    Following {
        /// Address of the leader.
        leader: Option<String>,
    },
    /// This one serves.
    Leading(Term),
}

/// One uninterrupted leadership.
#[derive(Debug, Clone)]
pub struct Term {
    /// The epoch; it may rise within a term.
    pub epoch: u64,
    /// The end, unless it is moved on.
    pub valid_until: Instant,
    /// Cancelled when the term is over.
    pub over: CancellationToken,
}

impl Term {
    /// Whether anything may still be sent. A process that was stopped for a while finds the end
    /// passed before its tasks were told.
    #[must_use]
    pub fn valid(&self) -> bool {
        !self.over.is_cancelled() && Instant::now() < self.valid_until
    }
}

/// The streams' side: who serves, and a way to ask for a higher epoch.
#[derive(Debug, Clone)]
pub struct Reign {
    rule: watch::Receiver<Rule>,
    demand: mpsc::Sender<u64>,
}

/// The side that decides.
#[derive(Debug)]
pub struct Throne {
    rule: watch::Sender<Rule>,
    hub: Arc<Hub>,
}

/// Both sides, following nobody, and the epochs that are asked for.
#[must_use]
pub fn reign(hub: Arc<Hub>) -> (Throne, Reign, mpsc::Receiver<u64>) {
    let (rule, seen) = watch::channel(Rule::Following { leader: None });
    // Demands are told apart by their maximum only.
    let (demand, demands) = mpsc::channel(16);
    (Throne { rule, hub }, Reign { rule: seen, demand }, demands)
}

impl Reign {
    /// What this replica is now.
    #[must_use]
    pub fn rule(&self) -> Rule {
        self.rule.borrow().clone()
    }

    /// The term, if this replica leads and may send.
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        match &*self.rule.borrow() {
            Rule::Leading(term) if term.valid() => Some(term.clone()),
            _ => None,
        }
    }

    /// Told of every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Rule> {
        self.rule.clone()
    }

    /// An agent has numbers of `epoch` that are not ours: serve by a higher one.
    pub fn demand(&self, epoch: u64) {
        // When the queue is full, a look at the highest is due anyway and the agent asks again.
        let _ = self.demand.try_send(epoch);
    }
}

impl Throne {
    /// This replica leads by `epoch` until `valid_until`.
    pub fn lead(&self, epoch: u64, valid_until: Instant) {
        self.hub.lead(epoch);
        self.rule.send_modify(|rule| match rule {
            Rule::Leading(term) if !term.over.is_cancelled() => {
                term.epoch = epoch;
                term.valid_until = valid_until;
            }
            _ => {
                info!(epoch, "serving agents");
                self.hub.begin_term();
                let over = CancellationToken::new();
                *rule = Rule::Leading(Term {
                    epoch,
                    valid_until,
                    over,
                });
            }
        });
        self.hub.told.notify_one();
    }

    /// Another leads: streams end.
    pub fn follow(&self, leader: Option<String>) {
        self.rule.send_modify(|rule| {
            if let Rule::Leading(term) = rule {
                info!(epoch = term.epoch, "no longer serving agents");
                term.over.cancel();
            }
            *rule = Rule::Following { leader };
        });
        self.hub.told.notify_one();
    }
}

/// Follows an election until `shutdown`; then the term is over.
pub async fn follow(
    throne: Throne,
    election: Election,
    mut demands: mpsc::Receiver<u64>,
    shutdown: CancellationToken,
) {
    let mut leadership = election.watch();
    loop {
        let now = leadership.borrow_and_update().clone();
        match now {
            Leadership::Leading { epoch, valid_until } => throne.lead(epoch, valid_until),
            Leadership::Following { leader } => throne.follow(leader),
        }
        tokio::select! {
            changed = leadership.changed() => {
                if changed.is_err() {
                    break;
                }
            }
            Some(epoch) = demands.recv() => election.demand(epoch),
            () = shutdown.cancelled() => break,
        }
    }
    throne.follow(None);
}
