//! Addresses to listen on, in the forms that Cilium's flags have: `localhost:9889`, `:9962`, `[::]:80`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs as _};

/// The address that `text` means. Without a host it is every address of the machine.
///
/// # Errors
/// What was expected; a name that does not resolve.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let expected = || format!("{text:?}: expected ADDRESS:PORT or :PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let port: u16 = port.parse().map_err(|_no_port| expected())?;
    match host {
        "" => Ok(everywhere(port)),
        "localhost" => Ok((Ipv4Addr::LOCALHOST, port).into()),
        host => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let mut found = (host, port).to_socket_addrs().map_err(|error| format!("{text:?}: {error}"))?;
            found.next().ok_or_else(expected)
        }
    }
}

/// Every address of the machine, of both families where the machine has both.
pub(crate) fn everywhere(port: u16) -> SocketAddr {
    let has_ipv6 = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    let any: IpAddr = if has_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_in_gos_forms() {
        assert_eq!(address("localhost:9889"), Ok("127.0.0.1:9889".parse().unwrap()));
        assert_eq!(address("[::1]:1"), Ok("[::1]:1".parse().unwrap()));
        let any = address(":9962").unwrap();
        assert!(any.ip().is_unspecified() && any.port() == 9962, "{any}");
        for wrong in ["", "9962", "localhost", "localhost:", "localhost:66000", ":x"] {
            assert!(address(wrong).unwrap_err().contains("expected ADDRESS:PORT"), "{wrong}");
        }
    }
}
