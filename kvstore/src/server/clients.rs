//! How many connections each client has.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Open connections by the address of the client.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection of a client, while it lives.
#[derive(Debug)]
pub(crate) struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// A place for one more connection; `None` if the client has `most` already.
    pub(crate) fn place(self: &Arc<Self>, client: IpAddr, most: usize) -> Option<Place> {
        // The same client, whichever way it came.
        let client = client.to_canonical();
        let mut clients = self.lock();
        let open = clients.entry(client).or_default();
        if *open >= most {
            return None;
        }
        *open += 1;
        Some(Place { clients: Arc::clone(self), client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.clients.lock();
        if let Some(open) = clients.get_mut(&self.client) {
            *open -= 1;
            if *open == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_places_and_gets_them_back() {
        let clients = Arc::new(Clients::default());
        let [here, there] = ["10.0.0.1", "::ffff:10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let (first, second) = (clients.place(here, 2), clients.place(here, 2));
        assert!(first.is_some() && second.is_some() && clients.place(here, 2).is_none());
        let other = clients.place(there, 1);
        assert!(other.is_some() && clients.place("10.0.0.2".parse().unwrap(), 1).is_none());
        drop(first);
        assert!(clients.place(here, 2).is_some());
        drop((second, other));
        assert!(clients.lock().is_empty(), "what nobody uses takes no memory");
    }
}
