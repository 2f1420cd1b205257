//! The syntax of image references: `[host[:port]/]path[:tag][@digest]`, as registries define it.

/// Characters of a name: host and path together.
const NAME_MOST: usize = 255;
/// Characters of a tag.
const TAG_MOST: usize = 128;

/// What is wrong with an image reference, or nothing.
pub fn fault(reference: &str) -> Option<&'static str> {
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    // A colon after the last slash begins a tag; before it, a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if name.is_empty() {
        return Some("it has no name");
    }
    if name.len() > NAME_MOST {
        return Some("its name has more than 255 characters");
    }
    let path = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" || has_upper(first) => {
            if !is_host(first) {
                return Some("its registry is no host name with an optional port");
            }
            path
        }
        _ => name,
    };
    if !path.split('/').all(is_part) {
        return Some(
            "each part of its path has lower-case letters and digits, with single dots, one or two underscores or \
             hyphens between them",
        );
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Some(
            "its tag has 1 to 128 letters, digits, underscores, dots and hyphens, and begins with none of the last two",
        );
    }
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Some("its digest is no algorithm and hexadecimal digits, such as sha256:… with 64 of them");
    }
    None
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("v6", rest.strip_prefix(':').or((!rest.is_empty()).then_some("?")))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_part(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    if !ends.iter().all(|end| end.is_some_and(|b| alphanumeric(*b))) {
        return false;
    }
    part.split(|c: char| c.is_ascii() && alphanumeric(c as u8))
        .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    (1..=TAG_MOST).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let digits = match algorithm {
        "sha256" => 64,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == digits && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_that_registries_take_pass() {
        let digest = format!("python@sha256:{}", "a1".repeat(32));
        let both = format!("registry.example:5000/a/b__c/d-e.f:3.12-slim@sha256:{}", "0".repeat(64));
        for reference in [
            "python",
            "python:3.12",
            "library/python",
            "localhost/berth/python:dev",
            "localhost:5000/python",
            "ghcr.io/berth/python:Latest_1.0",
            "10.0.0.7:30500/python",
            "[fd00::7]:5000/python",
            "a---b",
            &digest,
            &both,
        ] {
            assert_eq!(fault(reference), None, "{reference}");
        }
    }

    #[test]
    fn others_are_refused_in_words() {
        let long = "a".repeat(256);
        for reference in [
            "",
            ":3",
            "Python",
            "python:",
            "python:-1",
            "python:a b",
            "python\n",
            "https://ghcr.io/python",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "ghcr.io:x/python",
            "ghcr.io:0/python",
            "-x.io/python",
            "python@sha256:12",
            "python@md5:00",
            "python@",
            "[::x]/python",
            "[fd00::7]x/python",
            "pythön",
            "$(x)",
            &long,
        ] {
            assert!(fault(reference).is_some(), "{reference}");
        }
    }
}
