//! The gRPC service: finds out who calls and starts a session.

use crate::grpc::registry::Registry;
use crate::grpc::session;
use crate::listen::Peer;
use medevac_proto::session::nerve_server::{Nerve, NerveServer};
use medevac_proto::session::{AgentFrame, AggregatorFrame};
use std::sync::Arc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The largest frame: a whole inventory of a full host is about a tenth of it.
const FRAME_MAX: usize = 4 * 1024 * 1024;

/// Serves the agents.
#[derive(Clone)]
#[allow(missing_debug_implementations)]
pub struct NerveService {
    registry: Arc<Registry>,
}

impl NerveService {
    pub fn server(registry: Arc<Registry>) -> NerveServer<Self> {
        NerveServer::new(Self { registry }).max_decoding_message_size(FRAME_MAX).max_encoding_message_size(FRAME_MAX)
    }
}

#[tonic::async_trait]
impl Nerve for NerveService {
    type SessionStream = ReceiverStream<Result<AggregatorFrame, Status>>;

    async fn session(&self, request: Request<Streaming<AgentFrame>>) -> Result<Response<Self::SessionStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("a connection without a known peer"))?;
        let outbound = session::start(Arc::clone(&self.registry), peer, request.into_inner());
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}
