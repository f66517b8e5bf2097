//! One request to the agent: a length (four bytes, big-endian), then JSON, both ways.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Outcome;

/// The longest answer.
const MAX_ANSWER: u32 = 4 << 20;
/// How long it may take to read the request.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// A request and where it goes.
pub(crate) struct Call {
    pub(crate) frame: Value,
    pub(crate) socket: PathBuf,
    /// How long to try to connect.
    pub(crate) patience: Duration,
    /// How long the agent may take.
    pub(crate) answer_limit: Duration,
}

impl Call {
    /// Sends the request and reads the answer.
    pub(crate) fn send(&self) -> io::Result<Outcome> {
        let mut stream = self.connect()?;
        stream.set_write_timeout(Some(SEND_LIMIT))?;
        stream.set_read_timeout(Some(self.answer_limit))?;
        let request = serde_json::to_vec(&self.frame)?;
        let length = u32::try_from(request.len()).map_err(io::Error::other)?;
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&request)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > MAX_ANSWER {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer is too long",
            ));
        }
        let mut answer = Vec::new();
        stream.take(u64::from(length)).read_to_end(&mut answer)?;
        let mut answer: Value = serde_json::from_slice(&answer)?;
        let exit = answer
            .get("exit")
            .and_then(Value::as_u64)
            .ok_or(io::ErrorKind::InvalidData)?;
        let output = answer
            .get_mut("output")
            .map(Value::take)
            .unwrap_or_default();
        Ok(Outcome {
            output,
            success: exit == 0,
        })
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let deadline = Instant::now() + self.patience;
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}
