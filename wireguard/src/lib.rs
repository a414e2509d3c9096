//! wireguard.
