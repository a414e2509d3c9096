//! Generates the etcd v3 messages from `proto/`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure().build_server(false).build_client(false).bytes(".").compile_protos(
        &["proto/rpc.proto", "proto/lock.proto", "proto/election.proto"].map(String::from),
        &["proto".to_owned()],
    )?;
    Ok(())
}
