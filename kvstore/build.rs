//! Generates the etcd v3 messages and the client stubs from `proto/`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure().build_server(false).build_client(true).bytes(".").compile_protos(
        &["proto/rpc.proto", "proto/lock.proto", "proto/election.proto"].map(String::from),
        &["proto".to_owned()],
    )?;
    Ok(())
}
