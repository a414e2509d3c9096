//! etcd's services with every field of their messages: what `etcd-client` would not let a client ask for.

use bytes::{Buf, BufMut, Bytes};
use futures::{Stream, StreamExt};
use http::uri::PathAndQuery;
use kvstore::proto::etcdserverpb as pb;
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

use super::{bed::Pki, within};

/// A connection to `endpoint` with the certificate of `user`, made when it is used.
pub(crate) fn connect(pki: &Pki, endpoint: &str, user: &str) -> Channel {
    let read = |name: String| std::fs::read(pki.path(&name)).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt".into())))
        .identity(Identity::from_pem(read(format!("{user}.crt")), read(format!("{user}.key"))))
        .domain_name("localhost");
    Endpoint::from_shared(endpoint.to_owned()).unwrap().tls_config(tls).unwrap().connect_lazy()
}

/// Messages as they come over the wire, whatever they are.
#[derive(Clone, Copy, Default)]
struct Unread;

impl Codec for Unread {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Unread {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Unread {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

async fn prepared(
    channel: &Channel,
    token: Option<&'static str>,
    message: Bytes,
) -> Result<(Grpc<Channel>, Request<Bytes>), Status> {
    let mut grpc = Grpc::new(channel.clone());
    ready(&mut grpc).await?;
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.try_into().unwrap());
    }
    Ok((grpc, request))
}

/// Sends `message` to the method at `path`, which answers once.
pub(crate) async fn send(
    channel: &Channel,
    path: &'static str,
    token: Option<&'static str>,
    message: Bytes,
) -> Result<Bytes, Status> {
    let (mut grpc, request) = prepared(channel, token, message).await?;
    let answer = grpc.unary(request, PathAndQuery::from_static(path), Unread);
    Ok(within(path, answer).await?.into_inner())
}

/// The first `answers` to `message` of a method that goes on; the caller does too meanwhile.
pub(crate) async fn open(
    channel: &Channel,
    path: &'static str,
    message: Bytes,
    answers: usize,
) -> Result<Vec<Bytes>, Status> {
    let (mut grpc, request) = prepared(channel, None, message).await?;
    let request = request.map(|message| futures::stream::iter([message]).chain(futures::stream::pending()));
    let stream = grpc.streaming(request, PathAndQuery::from_static(path), Unread);
    let mut stream = within(path, stream).await?.into_inner();
    let mut got = Vec::new();
    while got.len() < answers
        && let Some(answer) = within(path, stream.message()).await?
    {
        got.push(answer);
    }
    Ok(got)
}

macro_rules! service {
    ($client:ident, $service:literal; $($method:ident: $ask:ident, $answer:ident, $rpc:literal;)*) => {
        pub(crate) struct $client(Grpc<Channel>);

        impl $client {
            pub(crate) fn new(channel: Channel) -> Self {
                Self(Grpc::new(channel))
            }

            $(pub(crate) async fn $method(&mut self, ask: pb::$ask) -> Result<Response<pb::$answer>, Status> {
                ready(&mut self.0).await?;
                let path = PathAndQuery::from_static(concat!("/etcdserverpb.", $service, "/", $rpc));
                self.0.unary(Request::new(ask), path, ProstCodec::default()).await
            })*
        }
    };
}

service! { KvClient, "KV";
    range: RangeRequest, RangeResponse, "Range";
    put: PutRequest, PutResponse, "Put";
    delete_range: DeleteRangeRequest, DeleteRangeResponse, "DeleteRange";
    txn: TxnRequest, TxnResponse, "Txn";
    compact: CompactionRequest, CompactionResponse, "Compact";
}

impl KvClient {
    pub(crate) async fn range_stream(
        &mut self,
        ask: pb::RangeRequest,
    ) -> Result<Response<Streaming<pb::RangeStreamResponse>>, Status> {
        ready(&mut self.0).await?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/RangeStream");
        self.0.server_streaming(Request::new(ask), path, ProstCodec::default()).await
    }
}

service! { LeaseClient, "Lease";
    lease_grant: LeaseGrantRequest, LeaseGrantResponse, "LeaseGrant";
    lease_revoke: LeaseRevokeRequest, LeaseRevokeResponse, "LeaseRevoke";
    lease_time_to_live: LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, "LeaseTimeToLive";
    lease_leases: LeaseLeasesRequest, LeaseLeasesResponse, "LeaseLeases";
}

service! { AuthClient, "Auth";
    auth_enable: AuthEnableRequest, AuthEnableResponse, "AuthEnable";
    user_add: AuthUserAddRequest, AuthUserAddResponse, "UserAdd";
    user_delete: AuthUserDeleteRequest, AuthUserDeleteResponse, "UserDelete";
    user_get: AuthUserGetRequest, AuthUserGetResponse, "UserGet";
    user_list: AuthUserListRequest, AuthUserListResponse, "UserList";
    user_grant_role: AuthUserGrantRoleRequest, AuthUserGrantRoleResponse, "UserGrantRole";
    user_revoke_role: AuthUserRevokeRoleRequest, AuthUserRevokeRoleResponse, "UserRevokeRole";
    role_add: AuthRoleAddRequest, AuthRoleAddResponse, "RoleAdd";
    role_delete: AuthRoleDeleteRequest, AuthRoleDeleteResponse, "RoleDelete";
    role_get: AuthRoleGetRequest, AuthRoleGetResponse, "RoleGet";
    role_list: AuthRoleListRequest, AuthRoleListResponse, "RoleList";
    role_grant_permission: AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, "RoleGrantPermission";
    role_revoke_permission: AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, "RoleRevokePermission";
}

service! { WatchClient, "Watch"; }

impl LeaseClient {
    pub(crate) async fn lease_keep_alive(
        &mut self,
        asks: impl Stream<Item = pb::LeaseKeepAliveRequest> + Send + 'static,
    ) -> Result<Response<Streaming<pb::LeaseKeepAliveResponse>>, Status> {
        ready(&mut self.0).await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        self.0.streaming(Request::new(asks), path, ProstCodec::default()).await
    }
}

impl WatchClient {
    pub(crate) async fn watch(
        &mut self,
        asks: impl Stream<Item = pb::WatchRequest> + Send + 'static,
    ) -> Result<Response<Streaming<pb::WatchResponse>>, Status> {
        ready(&mut self.0).await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        self.0.streaming(Request::new(asks), path, ProstCodec::default()).await
    }
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::unknown(format!("not ready: {error}")))
}
