//! kube-watch.
