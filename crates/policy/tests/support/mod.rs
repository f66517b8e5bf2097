//! A cluster of objects, random ones, and a matcher written from the API documents.

#![allow(dead_code, reason = "each test uses a part")]

pub mod generate;
pub mod reference;
pub mod world;
