//! The protocol's walk-throughs (ADR 0002), over real gRPC on loopback; only the API server is a
//! stand-in. Nothing here sleeps: agents wait for what they must see, with a deadline.

mod addresses;
mod cost;
mod harness;
mod policy;
mod refusal;
mod walk;
