//! Secrets at rest: sealed with a key that is not in the database.
//!
//! A sealed secret is `version (1) · key (8) · nonce (12) · ciphertext and tag`, by ChaCha20-Poly1305 under a random
//! nonce. It is bound to its session and name, so that one moved to another place in the database does not open.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rand::RngCore;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use shared::id::SessionId;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// The form of sealed secrets that is written.
const VERSION: u8 = 1;
/// Bytes of a key's name, which tells one that opens a secret from another.
const KEY_NAME_BYTES: usize = 8;
/// Bytes before the ciphertext.
const HEAD_BYTES: usize = 1 + KEY_NAME_BYTES + NONCE_LEN;
/// Bytes by which a sealed secret is longer than the secret.
pub(super) const OVERHEAD: usize = HEAD_BYTES + 16;

/// A key for secrets.
pub struct Seal {
    key: LessSafeKey,
    name: [u8; KEY_NAME_BYTES],
}

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key for secrets is 32 random bytes, as 64 hexadecimal digits or in base64; try `openssl rand -hex 32`"
)]
pub struct BadKey;

/// Why a secret cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// Sealed with another key.
    #[error("it was sealed with another key than this server has")]
    OtherKey,
    /// Changed, cut, or moved from another session or name.
    #[error("what is stored of it is damaged")]
    Damaged,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(…)")
    }
}

impl Seal {
    fn new(key: [u8; KEY_BYTES]) -> Self {
        let mut name = [0; KEY_NAME_BYTES];
        let hash = blake3::derive_key("berth 2026 name of a key for secrets", &key);
        name.copy_from_slice(&hash[..KEY_NAME_BYTES]);
        // The length is the algorithm's.
        let key =
            UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap_or_else(|_| unreachable!("32 bytes are a key"));
        Self { key: LessSafeKey::new(key), name }
    }

    /// The key that a setting holds.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let text = text.trim();
        let bytes = hex::decode(text)
            .or_else(|_| STANDARD.decode(text))
            .or_else(|_| URL_SAFE_NO_PAD.decode(text))
            .map_err(|_| BadKey)?;
        Ok(Self::new(bytes.try_into().map_err(|_| BadKey)?))
    }

    /// The key in a file, which is made if it is not there. The file must be its owner's alone.
    pub fn in_file(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(found) if found.permissions().mode() & 0o077 != 0 => {
                let why = format!("others may read it; run `chmod 600 {}`", path.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            Ok(_) => {}
            Err(why) if why.kind() == io::ErrorKind::NotFound => make(path)?,
            Err(why) => return Err(why),
        }
        let text = fs::read_to_string(path)?;
        Self::parse(&text).map_err(|why| {
            let why = format!("{} does not hold a key: {why}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    }

    /// Seals a session's secret.
    pub fn seal(&self, session: SessionId, name: &str, secret: &str) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        let mut sealed = Vec::with_capacity(secret.len() + OVERHEAD);
        sealed.push(VERSION);
        sealed.extend(self.name);
        sealed.extend(nonce);
        let mut text = secret.as_bytes().to_vec();
        let context = Aad::from(context(session, name));
        // It fails only for texts of many gigabytes; an unopened secret is then told of like any other.
        if self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), context, &mut text).is_ok()
        {
            sealed.append(&mut text);
        }
        sealed
    }

    /// Opens what [`Seal::seal`] gave for the same session and name.
    pub fn open(&self, session: SessionId, name: &str, sealed: &[u8]) -> Result<String, NotOpened> {
        let Some((head, text)) = sealed.split_at_checked(HEAD_BYTES) else { return Err(NotOpened::Damaged) };
        if head[0] != VERSION {
            return Err(NotOpened::Damaged);
        }
        if head[1..=KEY_NAME_BYTES] != self.name {
            return Err(NotOpened::OtherKey);
        }
        let nonce =
            Nonce::try_assume_unique_for_key(&head[1 + KEY_NAME_BYTES..]).map_err(|_| NotOpened::Damaged)?;
        let mut text = text.to_vec();
        let opened = self.key.open_in_place(nonce, Aad::from(context(session, name)), &mut text);
        let opened = opened.map_err(|_| NotOpened::Damaged)?.to_vec();
        String::from_utf8(opened).map_err(|_| NotOpened::Damaged)
    }
}

fn context(session: SessionId, name: &str) -> Vec<u8> {
    [b"berth secret\0".as_slice(), session.0.as_bytes(), name.as_bytes()].concat()
}

/// Writes a fresh key, unless somebody was quicker.
fn make(path: &Path) -> io::Result<()> {
    let mut key = [0; KEY_BYTES];
    rand::rng().fill_bytes(&mut key);
    // Whole before it has its name: half a key would be refused at every start to come.
    let fresh = path.with_extension(format!("fresh-{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(format!("{}\n", hex::encode(key)).as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&fresh, path);
    fs::remove_file(&fresh)?;
    match linked {
        Err(why) if why.kind() != io::ErrorKind::AlreadyExists => Err(why),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_where_it_belongs_and_nowhere_else() {
        let seal = Seal::new([7; KEY_BYTES]);
        let (mine, other) = (SessionId::random(), SessionId::random());
        let sealed = seal.seal(mine, "TOKEN", "geheim");
        assert_eq!(sealed.len(), "geheim".len() + OVERHEAD);
        assert!(!sealed.windows(6).any(|bytes| bytes == b"geheim"));
        assert_ne!(
            sealed,
            seal.seal(mine, "TOKEN", "geheim"),
            "the same secret twice is not seen to be the same"
        );
        assert_eq!(seal.open(mine, "TOKEN", &sealed).as_deref(), Ok("geheim"));
        assert_eq!(seal.open(other, "TOKEN", &sealed), Err(NotOpened::Damaged));
        assert_eq!(seal.open(mine, "TOKEN2", &sealed), Err(NotOpened::Damaged));
        assert_eq!(Seal::new([8; KEY_BYTES]).open(mine, "TOKEN", &sealed), Err(NotOpened::OtherKey));
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert!(seal.open(mine, "TOKEN", &bent).is_err(), "byte {at}");
            assert!(seal.open(mine, "TOKEN", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_key_is_hexadecimal_or_base64_of_32_bytes() {
        let (hex, base64) = (hex::encode([3; 32]), STANDARD.encode([3; 32]));
        let session = SessionId::random();
        let sealed = Seal::parse(&hex).unwrap().seal(session, "A", "x");
        assert_eq!(
            Seal::parse(&format!("{base64}\n")).unwrap().open(session, "A", &sealed).as_deref(),
            Ok("x")
        );
        for bad in ["", "password", &hex[2..], &base64[4..]] {
            assert_eq!(Seal::parse(bad).err(), Some(BadKey), "{bad:?}");
        }
    }

    #[test]
    fn a_file_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.key");
        let session = SessionId::random();
        let sealed = Seal::in_file(&path).unwrap().seal(session, "A", "x");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Seal::in_file(&path).unwrap().open(session, "A", &sealed).as_deref(), Ok("x"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Seal::in_file(&path).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "half a key").unwrap();
        assert!(Seal::in_file(&path).unwrap_err().to_string().contains("does not hold a key"));
    }
}
