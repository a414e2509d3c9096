//! etcd's services with every field of their messages: what `etcd-client` would not let a client ask for.

use futures::Stream;
use http::uri::PathAndQuery;
use kvstore::proto::etcdserverpb as pb;
use tonic::{Request, Response, Status, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

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
