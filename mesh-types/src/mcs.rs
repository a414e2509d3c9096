//! Names of the Multi-Cluster Services API.

use sha2::{Digest, Sha256};

/// Name of the Service that carries the address of an imported one: `derived-` and ten characters.
///
/// The characters are the first of the lower-case, unpadded base32 (extended hex alphabet) of SHA-256 over
/// `<namespace>/<name>`, so that every cluster gives it the same name. Source: mcs-api reference controllers.
pub fn derived_name(namespace: &str, name: &str) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    const CHARACTERS: usize = 10;
    let digest = Sha256::digest(format!("{namespace}/{name}"));
    // Ten characters are fifty bits: the first seven bytes have them.
    let bits = digest.iter().take(7).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let character = |at: usize| {
        let five = (bits >> (56 - 5 * (at + 1))) & 0b1_1111;
        char::from(ALPHABET[usize::try_from(five).expect("five bits fit")])
    };
    std::iter::once("derived-".to_owned())
        .chain((0..CHARACTERS).map(|at| character(at).to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_the_test_vectors_of_the_reference() {
        let vectors = [
            ("default", "full", "derived-9jo8ljlgl7"),
            ("default", "port-filter", "derived-rot6lodnc8"),
            ("default", "web", "derived-gapqrqeg1j"),
            ("my-ns", "my-svc", "derived-a2v4k9sqn6"),
            ("demo", "serve", "derived-ovtkn0laet"),
            ("default", "rebel-base-mcsapi", "derived-k5pqnfq741"),
            ("kube-system", "kube-dns", "derived-bnmpvejc1s"),
            ("test", "myservice", "derived-ugeabue9o3"),
        ];
        for (namespace, name, expected) in vectors {
            assert_eq!(derived_name(namespace, name), expected);
        }
    }
}
