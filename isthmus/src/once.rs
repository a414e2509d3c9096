//! The runtime of a command that does something and ends; daemons have [`crate::daemon`].

use anyhow::Context as _;

/// Runs `work` to its end. What it leaves behind is not waited for: a name that is still being looked up, a place that has not
/// answered yet and somebody who is asked for Enter keep threads.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    // Every TLS stack in the process uses the one provider; a second call would mean that it is set already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(done)
}
