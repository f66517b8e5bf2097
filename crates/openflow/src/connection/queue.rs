//! What a switch tells by itself: bounded queues that drop and count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::message::{FlowRemoved, PacketIn2, PortStatus};

/// Something changed in the switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A flow went.
    FlowRemoved(FlowRemoved),
    /// A port changed.
    PortStatus(PortStatus),
}

macro_rules! queue {
    ($(#[doc = $doc:literal])* $name:ident, $sender:ident, $make:ident, $item:ty) => {
        $(#[doc = $doc])*
        #[derive(Debug)]
        pub struct $name {
            receiver: mpsc::Receiver<$item>,
            dropped: Arc<AtomicU64>,
        }

        impl $name {
            /// The next one; `None` when the driver has ended and nothing is left.
            pub async fn recv(&mut self) -> Option<$item> {
                self.receiver.recv().await
            }

            /// The next one, if it is there.
            pub fn try_recv(&mut self) -> Option<$item> {
                self.receiver.try_recv().ok()
            }

            /// How many found no room and were dropped.
            pub fn dropped(&self) -> u64 {
                self.dropped.load(Ordering::Relaxed)
            }

            /// A counter of those dropped, for metrics.
            pub fn dropped_counter(&self) -> Arc<AtomicU64> {
                Arc::clone(&self.dropped)
            }
        }

        #[derive(Debug, Clone)]
        pub(super) struct $sender {
            sender: mpsc::Sender<$item>,
            dropped: Arc<AtomicU64>,
        }

        impl $sender {
            pub(super) fn offer(&self, item: $item) {
                // Nobody listens: nobody misses it either.
                if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(item) {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }

        pub(super) fn $make(capacity: usize) -> ($sender, $name) {
            let (sender, receiver) = mpsc::channel(capacity.max(1));
            let dropped = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&dropped);
            ($sender { sender, dropped: counted }, $name { receiver, dropped })
        }
    };
}

queue! {
    /// Packets that the switch sent.
    PacketIns, PacketInSender, packet_ins, PacketIn2
}
queue! {
    /// Removed flows and changed ports.
    Notices, NoticeSender, notices, Notice
}
