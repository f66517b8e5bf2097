//! The gRPC service: who may open a stream, and as what.

use std::sync::Arc;
use std::time::Duration;

use carrick_proto::v1::distribution_server::Distribution;
use carrick_proto::v1::{self, agent_message, controller_message};
use carrick_proto::{Greeting, NodeName};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::auth::Authenticator;
use crate::cluster::{Cluster, Refusal};
use crate::hub::Hub;
use crate::metrics::{Metrics, Review};
use crate::reign::{Reign, Rule};
use crate::session::{Outgoing, Stream, refused};

/// How long an agent may take to say hello.
const HELLO_WITHIN: Duration = Duration::from_secs(15);
/// How long a stream may wait for an epoch above its agent's.
const EPOCH_WITHIN: Duration = Duration::from_secs(5);
/// How old a stream may become, less up to a quarter so that streams do not end together.
const OLDEST: Duration = Duration::from_hours(1);
/// Messages a stream may have computed but not sent: with one, what an agent lacks is computed
/// when the one before is on its way.
const OUTGOING: usize = 1;

/// The service. Clones share everything.
pub struct Service<C> {
    inner: Arc<Inner<C>>,
    streams: TaskTracker,
}

struct Inner<C> {
    hub: Arc<Hub>,
    cluster: Arc<C>,
    auth: Authenticator<C>,
    reign: Reign,
    metrics: Metrics,
}

impl<C: Cluster> Service<C> {
    /// Serves what `hub` knows while `reign` says so. Streams are tasks of `streams`.
    #[must_use]
    pub fn new(
        hub: Arc<Hub>,
        cluster: Arc<C>,
        reign: Reign,
        metrics: Metrics,
        streams: TaskTracker,
    ) -> Self {
        let auth = Authenticator::new(Arc::clone(&cluster));
        Self {
            inner: Arc::new(Inner {
                hub,
                cluster,
                auth,
                reign,
                metrics,
            }),
            streams,
        }
    }
}

#[tonic::async_trait]
impl<C: Cluster> Distribution for Service<C> {
    type SubscribeStream = ReceiverStream<Outgoing>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (outgoing, answer) = mpsc::channel(OUTGOING);
        if self.inner.reign.term().is_none() {
            // Said to everybody: it is no secret, and costs no question to the API server.
            let _ = outgoing.try_send(Ok(not_leader(&self.inner.reign)));
            return Ok(Response::new(ReceiverStream::new(answer)));
        }
        let node = self.inner.authenticate(&request).await?;
        let inner = Arc::clone(&self.inner);
        let incoming = request.into_inner();
        self.streams
            .spawn(async move { inner.serve(node, incoming, outgoing).await });
        Ok(Response::new(ReceiverStream::new(answer)))
    }
}

impl<C: Cluster> Inner<C> {
    async fn authenticate(
        &self,
        request: &Request<Streaming<v1::AgentMessage>>,
    ) -> Result<NodeName, Status> {
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.strip_prefix("Bearer "))
            .ok_or_else(|| Status::unauthenticated("a Bearer token is required"))?;
        match self.auth.node_of(token).await {
            Ok(node) => {
                self.metrics.review(Review::Accepted);
                Ok(node)
            }
            Err(refusal @ Refusal::Unavailable { .. }) => {
                self.metrics.review(Review::Unavailable);
                warn!(error = %refusal, "an agent's token cannot be checked");
                Err(Status::unavailable(refusal.to_string()))
            }
            Err(refusal) => {
                self.metrics.review(Review::Refused);
                warn!(error = %refusal, peer = ?request.remote_addr(), "a token was refused");
                Err(Status::unauthenticated(refusal.to_string()))
            }
        }
    }

    async fn serve(
        &self,
        node: NodeName,
        mut incoming: Streaming<v1::AgentMessage>,
        outgoing: mpsc::Sender<Outgoing>,
    ) {
        let greeting = match self.greeting(&node, &mut incoming).await {
            Ok(greeting) => greeting,
            Err(status) => {
                info!(%node, code = ?status.code(), message = status.message(), "an agent's stream was refused");
                let _ = outgoing.try_send(Err(status));
                return;
            }
        };
        let Some(term) = self.reign.term() else {
            let _ = outgoing.try_send(Ok(not_leader(&self.reign)));
            return;
        };
        let session = match self.hub.open(&greeting) {
            Ok(session) => session,
            Err(ended) => {
                warn!(%node, error = %ended, "an agent's stream was refused");
                let _ = outgoing.try_send(Err(refused(ended)));
                return;
            }
        };
        tokio::select! {
            () = self.hub.roll_called() => {}
            () = term.over.cancelled() => {}
        }
        let opened = match self.hub.resume(session, &greeting) {
            Ok(opened) => opened,
            Err(ended) => {
                warn!(%node, error = %ended, "an agent is not told what it lacks");
                let _ = outgoing.try_send(Err(refused(ended)));
                return;
            }
        };
        let spread: f64 = rand::random();
        let stream = Stream {
            hub: Arc::clone(&self.hub),
            cluster: Arc::clone(&self.cluster),
            metrics: self.metrics.clone(),
            reign: self.reign.clone(),
            term,
            incoming,
            outgoing,
            retire: Instant::now() + OLDEST.mul_f64(1.0 - spread / 4.0),
        };
        stream.run(opened).await;
    }

    /// Hears the hello, holds it to the token, and sees to an epoch above the agent's.
    async fn greeting(
        &self,
        node: &NodeName,
        incoming: &mut Streaming<v1::AgentMessage>,
    ) -> Result<Greeting, Status> {
        let first = tokio::time::timeout(HELLO_WITHIN, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello in time"))??;
        let Some(agent_message::Message::Hello(hello)) = first.and_then(|message| message.message)
        else {
            return Err(Status::failed_precondition(
                "the first message must be Hello",
            ));
        };
        let greeting = Greeting::try_from(hello)
            .map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
        if greeting.node != *node {
            self.metrics.review(Review::Stolen);
            warn!(token = %node, hello = %greeting.node, "a token of one node was used for another's stream");
            return Err(Status::permission_denied(format!(
                "the token is bound to node {node}, the stream is for node {}",
                greeting.node
            )));
        }
        if greeting.protocol == 0 {
            return Err(Status::invalid_argument("the hello names no protocol"));
        }
        self.exceed(&greeting).await?;
        Ok(greeting)
    }

    /// Numbers an agent sees never fall: when it has one above ours, we serve by a higher epoch
    /// first, which must be in the Lease before.
    async fn exceed(&self, greeting: &Greeting) -> Result<(), Status> {
        let mut rule = self.reign.watch();
        let risen = async {
            while greeting.number > self.hub.number() {
                self.reign.demand(greeting.number.epoch());
                if rule.changed().await.is_err() || !matches!(*rule.borrow(), Rule::Leading(_)) {
                    return Err(Status::unavailable("this controller no longer leads"));
                }
            }
            Ok(())
        };
        tokio::time::timeout(EPOCH_WITHIN, risen)
            .await
            .map_err(|_| {
                Status::unavailable(format!(
                    "this controller cannot yet serve by an epoch above the agent's number {}",
                    greeting.number
                ))
            })?
    }
}

fn not_leader(reign: &Reign) -> v1::ControllerMessage {
    let leader = match reign.rule() {
        Rule::Following { leader } => leader.unwrap_or_default(),
        Rule::Leading(_) => String::new(),
    };
    v1::ControllerMessage {
        message: Some(controller_message::Message::NotLeader(v1::NotLeader {
            leader,
        })),
    }
}
