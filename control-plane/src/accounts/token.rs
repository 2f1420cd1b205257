//! Random tokens, and the hashes that are kept of them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// Bytes of randomness in a token.
const BYTES: usize = 32;
/// Characters of a token as text.
const CHARACTERS: usize = 43;

/// A random token of 256 bits, as URL-safe text. Prints as nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A fresh one.
    pub fn random() -> Self {
        let mut bytes = [0; BYTES];
        rand::rng().fill_bytes(&mut bytes);
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The token itself; call this only where it is handed over.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }

    /// Whether a text could be a token at all, so that others need no look into the database.
    pub fn looks_like_one(text: &str) -> bool {
        text.len() == CHARACTERS
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What is kept of a token. Plain SHA-256: with 256 random bits there is nothing to guess, and an admin's
/// token, which a person may have chosen, is only ever in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token's text.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Whether both are of the same token, in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The bytes for the database.
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_recognised_by_its_hash_alone_and_never_prints() {
        let (one, other) = (Token::random(), Token::random());
        assert!(Token::looks_like_one(one.reveal()), "{}", one.reveal());
        assert!(one.hash().matches(&TokenHash::of(one.reveal())));
        assert!(!one.hash().matches(&other.hash()));
        assert!(!format!("{one:?}").contains(one.reveal()));
        assert!(!Token::looks_like_one("") && !Token::looks_like_one(&"'".repeat(CHARACTERS)));
    }
}
