//! Who is asking: a client certificate, or a token. Nobody is nobody.

use std::fmt;

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A user whom a secret text identifies.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    user: String,
    /// Compared by hash, so that comparing takes the same time for all.
    hash: [u8; 32],
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: String,
}

impl Token {
    /// `secret` is what `user` sends as its bearer token.
    pub fn new(user: impl Into<String>, secret: &str) -> Self {
        Self { user: user.into(), hash: Sha256::digest(secret).into() }
    }
}

impl fmt::Debug for Token {
    /// Without the secret, or what it could be guessed from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The user of a certificate that was verified: its common name.
pub(crate) fn by_certificate(chain: &[CertificateDer<'_>]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let user = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    (!user.is_empty()).then_some(Identity { user })
}

/// The user of an Authorization header.
pub(crate) fn by_header(header: &str, tokens: &[Token]) -> Option<Identity> {
    let (scheme, secret) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let hash: [u8; 32] = Sha256::digest(secret.trim()).into();
    let found = tokens.iter().find(|token| token.hash == hash)?;
    Some(Identity { user: found.user.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_token_is_somebody() {
        let tokens = [Token::new("admin", "sesame")];
        assert_eq!(
            by_header("Bearer sesame", &tokens).map(|identity| identity.user).as_deref(),
            Some("admin")
        );
        for wrong in ["", "sesame", "Basic sesame", "Bearer", "Bearer ", "Bearer other"] {
            assert_eq!(by_header(wrong, &tokens), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_does_not_show() {
        assert!(!format!("{:?}", Token::new("admin", "sesame")).contains("sesame"));
    }
}
