//! The page, built by Vite and embedded with its headers.
//!
//! [`index`] is the one HTML document, for `/` and every `/s/…`; [`asset`] finds all
//! other files. The page works under exactly [`content_security_policy`].
#![forbid(unsafe_code)]

/// A file of the page, in every encoding it is kept in.
#[derive(Debug)]
pub struct Asset {
    /// Absolute URL path, such as `/assets/index-Bx1.js`.
    pub path: &'static str,
    /// The `Content-Type` header.
    pub content_type: &'static str,
    /// The `ETag` header, quoted. It names the identity bytes; add a suffix to tell encodings apart.
    pub etag: &'static str,
    /// The name holds a hash of the contents: cache it for ever.
    pub immutable: bool,
    /// The bytes as they are.
    pub identity: &'static [u8],
    /// The bytes for `Content-Encoding: gzip`, where that is smaller.
    pub gzip: Option<&'static [u8]>,
    /// The bytes for `Content-Encoding: br`, where that is smaller.
    pub br: Option<&'static [u8]>,
}

impl Asset {
    /// The `Cache-Control` header: a year for hashed names, else revalidate.
    #[must_use]
    pub fn cache_control(&self) -> &'static str {
        if self.immutable { "public, max-age=31536000, immutable" } else { "public, no-cache" }
    }

    /// The bytes to send for an `Accept-Encoding` header, and the `Content-Encoding` to name, if any.
    #[must_use]
    pub fn encoded(&self, accept_encoding: &str) -> (&'static [u8], Option<&'static str>) {
        let accepts = |coding: &str| {
            accept_encoding.split(',').any(|part| {
                let mut part = part.split(';').map(str::trim);
                part.next().is_some_and(|name| name.eq_ignore_ascii_case(coding))
                    && !part.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
            })
        };
        match (self.br, self.gzip) {
            (Some(bytes), _) if accepts("br") => (bytes, Some("br")),
            (_, Some(bytes)) if accepts("gzip") => (bytes, Some("gzip")),
            _ => (self.identity, None),
        }
    }
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The file at an absolute URL path; `None` for `/` and `/index.html`, which is [`index`].
#[must_use]
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.binary_search_by(|asset| asset.path.cmp(path)).ok().map(|found| &ASSETS[found])
}

/// All files but the index, sorted by path.
#[must_use]
pub fn assets() -> &'static [Asset] {
    ASSETS
}

/// The HTML document for one load of the page, to be sent with `Cache-Control: no-store` and
/// the policy made from the same nonce.
///
/// `nonce` must be new for each load and hard to guess; characters other than those of
/// base64 (either alphabet) are left out.
#[must_use]
pub fn index(nonce: &str) -> String {
    INDEX.replace("%BERTH_NONCE%", &clean(nonce))
}

/// The `Content-Security-Policy` header that belongs to [`index`] with the same nonce.
#[must_use]
pub fn content_security_policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{}'; style-src-attr 'unsafe-inline'; \
         connect-src 'self'; img-src 'self' data: blob:; font-src 'self'; manifest-src 'self'; \
         worker-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types svelte-trusted-html",
        clean(nonce)
    )
}

fn clean(nonce: &str) -> String {
    nonce.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_' | '=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a page was embedded at all (not so under `BERTH_WEB_SKIP=1`).
    fn page_was_built() -> bool {
        INDEX.contains("%BERTH_NONCE%")
    }

    #[test]
    fn the_index_and_its_policy_carry_the_same_nonce() {
        let html = index("aB3+/-_=");
        assert!(!html.contains("%BERTH_NONCE%"));
        if page_was_built() {
            assert!(html.contains("content=\"aB3+/-_=\""));
        }
        assert!(content_security_policy("aB3+/-_=").contains("'nonce-aB3+/-_='"));
    }

    #[test]
    fn a_nonce_cannot_break_out_of_its_attribute_or_directive() {
        assert!(!index("\"><script>").contains("\"><script>"));
        assert!(content_security_policy("x'; script-src *").contains("'nonce-xscript-src'"));
    }

    #[test]
    fn every_file_that_the_index_names_is_embedded() {
        let html = index("n");
        let named = html.split('"').filter(|part| part.starts_with('/'));
        for path in named {
            assert!(asset(path).is_some(), "{path} is not embedded");
        }
    }

    #[test]
    fn hashed_files_are_immutable_and_others_are_revalidated() {
        for asset in assets() {
            assert_eq!(asset.immutable, asset.path.starts_with("/assets/"), "{}", asset.path);
            assert!(asset.cache_control().contains(if asset.immutable { "immutable" } else { "no-cache" }));
        }
    }

    #[test]
    fn the_smallest_accepted_encoding_is_chosen() {
        let asset = Asset {
            path: "/a.js",
            content_type: "text/javascript; charset=utf-8",
            etag: "\"1\"",
            immutable: false,
            identity: b"identity",
            gzip: Some(b"gzip"),
            br: Some(b"br"),
        };
        assert_eq!(asset.encoded("gzip, deflate, br"), (&b"br"[..], Some("br")));
        assert_eq!(asset.encoded("gzip;q=0.5, br;q=0"), (&b"gzip"[..], Some("gzip")));
        assert_eq!(asset.encoded(""), (&b"identity"[..], None));
    }

    #[test]
    fn nothing_is_found_outside_the_page() {
        for path in ["", "/", "/index.html", "/../Cargo.toml", "/assets/", "/manifest.json"] {
            assert!(asset(path).is_none(), "{path}");
        }
    }
}
