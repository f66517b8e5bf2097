//! The unix socket: frames in, answers out.
//!
//! Tasks: `serve` owns one task per connection and awaits them all before it returns. A command
//! runs to its end even when its caller is gone, so that the DEL behind it meets a finished state.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::network::PodNetwork;
use super::request::{Answer, Frame, MAX_FRAME};
use super::server::CniServer;

/// Where runtimes mount the namespaces they make.
pub(super) const NETNS_DIR: &str = "/run/netns";
/// Commands at work at once: a node starts a hundred pods together; above, they queue.
const CONCURRENT: usize = 64;
/// How long a client may take to send its request or to take the answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("listening on {}", path.display())]
pub struct ListenError {
    /// The socket's path.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// Listens on `path`, for root only, in the place of a socket that an earlier process left.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let fail = |source| ListenError {
        path: path.to_owned(),
        source,
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(fail)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// Serves until `shutdown` is done, then finishes the commands at work. What the journal lost must be
/// recovered before ([`CniServer::recover_at_start`]).
pub async fn serve<N: PodNetwork>(
    server: Arc<CniServer<N>>,
    listener: UnixListener,
    shutdown: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(CONCURRENT));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let slot = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            slot = Arc::clone(&slots).acquire_owned() => match slot {
                Ok(slot) => slot,
                Err(_) => break,
            },
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let server = Arc::clone(&server);
                connections.spawn(async move {
                    if let Err(error) = connection(&server, stream).await {
                        debug!(%error, "a CNI connection ended early");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: others must end first.
                warn!(%error, "accepting a CNI connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn connection<N: PodNetwork>(
    server: &CniServer<N>,
    mut stream: UnixStream,
) -> io::Result<()> {
    if stream.peer_cred()?.uid() != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let frame = timeout(CLIENT_LIMIT, read_frame(&mut stream)).await??;
    let answer = server.answer(&frame).await;
    timeout(CLIENT_LIMIT, write_answer(&mut stream, &answer)).await?
}

async fn read_frame(stream: &mut UnixStream) -> io::Result<Frame> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the request is too long",
        ));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    serde_json::from_slice(&bytes).map_err(io::Error::from)
}

async fn write_answer(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let bytes = serde_json::to_vec(answer)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_u32(length).await?;
    stream.write_all(&bytes).await?;
    stream.shutdown().await
}
