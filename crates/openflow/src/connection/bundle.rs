//! Bundles, and making a switch what it should be.

use thiserror::Error;
use tokio::time::timeout;

use super::Connection;
use super::error::{BundleError, RequestError};
use super::session::Session;
use crate::diff::{Learned, Mod, State, diff};
use crate::error::EncodeError;
use crate::flow::FlowFilter;
use crate::id::{GroupId, Xid};
use crate::message::bundle::{ATOMIC, BundleControl, BundleId, ControlType, ORDERED};
use crate::message::{ErrorMessage, ErrorName, Message, kind};
use crate::wire::Put;

/// Bytes of messages that are put together for one write.
const CHUNK: usize = 64 << 10;
/// How often [`Connection::synchronize`] reads back and tries again.
const ATTEMPTS: usize = 4;

/// What [`Connection::synchronize`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Modifications of flows and groups that were committed.
    pub changes: usize,
    /// Modifications of meters.
    pub meters: usize,
    /// The session in which the switch was found to be as desired.
    pub generation: u64,
}

/// A switch that could not be made what it should be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SyncError {
    /// What it has could not be read.
    #[error("read the switch")]
    Dump(#[source] RequestError),
    /// A group is larger than the switch can describe. Nothing was changed.
    #[error("group {id} cannot be read back")]
    Group {
        /// Which.
        id: GroupId,
        /// Why.
        #[source]
        source: EncodeError,
    },
    /// A meter was refused.
    #[error("change a meter")]
    Meter(#[source] RequestError),
    /// The bundle was refused.
    #[error("change flows and groups")]
    Bundle(#[source] BundleError),
    /// After several commits without an answer it still is not what it should be.
    #[error("the switch did not become what it should be in {0} attempts")]
    Attempts(usize),
}

impl Connection {
    /// Applies modifications as one, in order: all or none. Any number of them; memory stays
    /// bounded, as they are encoded while the switch takes them.
    ///
    /// # Errors
    /// See [`BundleError`]; after [`BundleError::Unknown`] read back before trying again.
    pub async fn bundle(&self, mods: &[Mod]) -> Result<(), BundleError> {
        if mods.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.bundle.lock().await;
        let session = self.session().map_err(BundleError::NotSent)?;
        let count = u32::try_from(mods.len()).map_err(|_| BundleError::NotSent(too_many()))?;
        let first = session.xids(count);
        // The first transaction id is no other open bundle's.
        let bundle = BundleId(first);
        let request = self.config.request_timeout;
        session.begin_bundle(first, count);
        // The switch takes them in turn: nobody has to wait for its first answer to send the rest, and each
        // answer takes a turn of its main loop, milliseconds where it has hundreds of ports.
        let open = control(bundle, ControlType::OPEN_REQUEST);
        let open = session.request(&open, "open a bundle", request);
        let fill_and_commit = async {
            self.add(&session, bundle, first, mods).await?;
            let commit = control(bundle, ControlType::COMMIT_REQUEST);
            let limit = self.config.commit_timeout;
            Ok(session.request(&commit, "commit a bundle", limit).await)
        };
        // Polled in this order, so that they are sent in it.
        let (opened, sent) = tokio::join!(biased; open, fill_and_commit);
        let mut errors = session.end_bundle().into_iter();
        let answer = match (opened, sent) {
            (Err(error @ RequestError::Refused { .. }), Ok(Err(RequestError::Refused { .. }))) => {
                return Err(BundleError::NotSent(error));
            }
            (_, Ok(answer)) => answer,
            (_, Err(error)) => {
                // Nothing is applied without a commit; the switch drops it with the session otherwise.
                let discard = control(bundle, ControlType::DISCARD_REQUEST);
                drop(session.request(&discard, "discard a bundle", request).await);
                return Err(error);
            }
        };
        match answer {
            Ok(_) => Ok(()),
            Err(RequestError::Refused { error, .. }) => {
                let (index, error) = match errors.next() {
                    Some((index, cause)) => (Some(index), cause),
                    None => (None, error),
                };
                Err(BundleError::Refused { index, error })
            }
            Err(error) => Err(BundleError::Unknown(error)),
        }
    }

    async fn add(
        &self,
        session: &Session,
        bundle: BundleId,
        first: u32,
        mods: &[Mod],
    ) -> Result<(), BundleError> {
        let limit = self.config.request_timeout;
        let mut chunk = Vec::with_capacity(CHUNK + 4096);
        for (index, change) in mods.iter().enumerate() {
            let offset = u32::try_from(index).map_err(|_| BundleError::NotSent(too_many()))?;
            let xid = Xid(first.wrapping_add(offset));
            put_add(&mut chunk, bundle, xid, change)
                .map_err(|source| BundleError::Encode { index, source })?;
            if chunk.len() >= CHUNK || index + 1 == mods.len() {
                let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK + 4096));
                let what = "fill a bundle";
                let late = |_| RequestError::Timeout { what, after: limit };
                let sent = timeout(limit, session.send(full)).await.map_err(late);
                sent.and_then(|sent| sent).map_err(BundleError::NotSent)?;
            }
        }
        Ok(())
    }

    /// Everything in the switch that a controller programs, canonical.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn dump_state(&self) -> Result<State, RequestError> {
        let flows = self.dump_flows(FlowFilter::default()).await?;
        let groups = self.dump_groups().await?;
        let meters = match self.dump_meters().await {
            Ok(meters) => meters,
            // A datapath without meters.
            Err(RequestError::Refused { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut state = State {
            flows: flows.into_iter().map(|stats| stats.flow).collect(),
            groups,
            meters,
        };
        state.canonicalize();
        Ok(state)
    }

    /// Makes the switch have what is desired, by the least change: meters, then one bundle, then
    /// meters. When a commit gets no answer the switch is read back, in the next session if need
    /// be, and only what still differs is sent again.
    ///
    /// `desired` must be canonical ([`State::canonicalize`]).
    ///
    /// # Errors
    /// See [`SyncError`]. Meters may have been changed; flows and groups were not, or it is told.
    pub async fn synchronize(
        &self,
        desired: &State,
        learned: &Learned,
    ) -> Result<Report, SyncError> {
        for group in &desired.groups {
            let id = group.id;
            group
                .check_size()
                .map_err(|source| SyncError::Group { id, source })?;
        }
        let mut report = Report::default();
        for _ in 0..ATTEMPTS {
            let generation = self.connected().await.map_err(SyncError::Dump)?;
            let dumped = match self.dump_state().await {
                Ok(dumped) => dumped,
                // The session ended meanwhile: again with the next.
                Err(RequestError::Disconnected) => continue,
                Err(error) => return Err(SyncError::Dump(error)),
            };
            let plan = diff(&dumped, desired, learned);
            for change in plan.meters_before {
                self.meter(change).await.map_err(SyncError::Meter)?;
                report.meters += 1;
            }
            match self.bundle(&plan.bundle).await {
                Ok(()) => {}
                Err(BundleError::Unknown(_) | BundleError::NotSent(RequestError::Disconnected)) => {
                    continue;
                }
                Err(error) => return Err(SyncError::Bundle(error)),
            }
            report.changes += plan.bundle.len();
            for change in plan.meters_after {
                self.meter(change).await.map_err(SyncError::Meter)?;
                report.meters += 1;
            }
            report.generation = generation;
            return Ok(report);
        }
        Err(SyncError::Attempts(ATTEMPTS))
    }
}

fn control(bundle: BundleId, control: ControlType) -> Message {
    Message::BundleControl(BundleControl {
        bundle,
        control,
        flags: ATOMIC | ORDERED,
    })
}

fn too_many() -> RequestError {
    let error = ErrorMessage {
        name: ErrorName::Standard { kind: 17, code: 12 },
        data: Vec::new(),
    };
    RequestError::Refused {
        what: "bundle of more than 4,294,967,295 modifications",
        error,
    }
}

/// Appends BUNDLE_ADD_MESSAGE around a modification, without encoding that twice.
fn put_add(
    out: &mut Vec<u8>,
    bundle: BundleId,
    xid: Xid,
    change: &Mod,
) -> Result<(), crate::EncodeError> {
    let start = out.len();
    let inner = crate::message::BundleAdd::OVERHEAD;
    out.zeros(inner);
    let result = match change {
        Mod::Flow(change) => {
            crate::message::encode_with(out, xid, kind::FLOW_MOD, |out| change.put(out))
        }
        Mod::Group(change) => {
            crate::message::encode_with(out, xid, kind::GROUP_MOD, |out| change.put(out))
        }
    };
    let result = result.and_then(|()| {
        let mut head = Vec::with_capacity(inner);
        head.u8(crate::message::VERSION);
        head.u8(kind::BUNDLE_ADD_MESSAGE);
        head.u16(0);
        head.u32(xid.0);
        head.u32(bundle.0);
        head.zeros(2);
        head.u16(ATOMIC | ORDERED);
        if let Some(place) = out.get_mut(start..start + inner) {
            place.copy_from_slice(&head);
        }
        crate::message::finish(out, start)
    });
    if result.is_err() {
        out.truncate(start);
    }
    result
}
