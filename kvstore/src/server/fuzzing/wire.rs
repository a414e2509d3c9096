//! Calls as a client makes them.

use futures::Stream;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{Request, Status, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

async fn ready(channel: &Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(grpc)
}

/// One message, one answer.
pub(super) async fn unary<Ask, Answer>(
    channel: &Channel,
    path: &'static str,
    ask: Ask,
) -> Result<Answer, Status>
where
    Ask: Message + 'static,
    Answer: Message + Default + 'static,
{
    let path = PathAndQuery::from_static(path);
    let answer = ready(channel).await?.unary(Request::new(ask), path, ProstCodec::default()).await?;
    Ok(answer.into_inner())
}

/// Messages both ways.
pub(super) async fn stream<Ask, Answer>(
    channel: &Channel,
    path: &'static str,
    asks: impl Stream<Item = Ask> + Send + 'static,
) -> Result<Streaming<Answer>, Status>
where
    Ask: Message + 'static,
    Answer: Message + Default + 'static,
{
    let path = PathAndQuery::from_static(path);
    let answer = ready(channel).await?.streaming(Request::new(asks), path, ProstCodec::default()).await?;
    Ok(answer.into_inner())
}
