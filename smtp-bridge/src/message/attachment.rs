//! What is kept of an attachment besides its bytes: a media type and a file name, in one spelling.

use super::limits::FILE_NAME_BYTES_MAX;
use super::policy::Pass;
use super::refusal::Refusal;
use super::words::collapse;

/// Longest media type that is carried on.
const MEDIA_TYPE_LENGTH_MAX: usize = 100;

/// The type for bytes of which nothing else is said.
const OCTETS: &str = "application/octet-stream";

/// Longest extension kept when a name is cut.
const EXTENSION_BYTES_MAX: usize = 16;

/// Systems disagree on the types of the commonest files (Windows sends `application/x-zip-compressed`, Outlook spreadsheets for CSV):
/// the extension decides, so that the type does not show the system.
const TYPES: &[(&str, &str)] = &[
    ("bmp", "image/bmp"),
    ("css", "text/css"),
    ("csv", "text/csv"),
    ("doc", "application/msword"),
    (
        "docx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ),
    ("epub", "application/epub+zip"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("ics", "text/calendar"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("json", "application/json"),
    ("log", "text/plain"),
    ("md", "text/markdown"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("odp", "application/vnd.oasis.opendocument.presentation"),
    ("ods", "application/vnd.oasis.opendocument.spreadsheet"),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("patch", "text/x-patch"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("ppt", "application/vnd.ms-powerpoint"),
    (
        "pptx",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("txt", "text/plain"),
    ("webp", "image/webp"),
    ("xls", "application/vnd.ms-excel"),
    (
        "xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
];

/// Files of S/MIME by their extension: detached signatures first.
const SIGNATURE_EXTENSIONS: &[&str] = &["p7s"];
const CERTIFICATE_EXTENSIONS: &[&str] = &["p12", "p7b", "p7c", "p7m", "p7z", "pfx"];

/// Refuses the types whose inside is another message, a signature, or a client's own container. A signature whose signer
/// can be read is looked into later.
pub(super) fn check_type(media_type: &str, pass: Pass) -> Result<(), Refusal> {
    match media_type {
        "application/pgp-signature" | "application/pgp-keys" => Ok(()),
        "application/pkcs7-signature" | "application/x-pkcs7-signature" if pass.signed => Ok(()),
        "multipart/signed" => Err(Refusal::Signed),
        "application/pkcs7-signature" | "application/x-pkcs7-signature" => Err(Refusal::Signed),
        "multipart/mixed" | "multipart/alternative" | "multipart/related" | "multipart/parallel" => Ok(()),
        "application/ms-tnef" | "application/vnd.ms-tnef" | "application/applefile" => Err(Refusal::MediaType),
        "multipart/encrypted" => Err(Refusal::Encrypted),
        "text/rfc822-headers" => Err(Refusal::AttachedMessage),
        other => match other {
            _ if other.starts_with("application/pgp-") => Err(Refusal::Encrypted),
            _ if other.starts_with("application/pkcs7-") => Err(Refusal::Encrypted),
            _ if other.starts_with("application/x-pkcs7-") => Err(Refusal::Encrypted),
            _ if other.starts_with("message/") => Err(Refusal::AttachedMessage),
            _ if other.starts_with("multipart/") => Err(Refusal::MediaType),
            _ => Ok(()),
        },
    }
}

/// Refuses the files of S/MIME that have another type. Certificates in them name somebody, and are not looked into.
pub(super) fn check_name(name: Option<&str>, pass: Pass) -> Result<(), Refusal> {
    let extension = name
        .and_then(|name| name.rsplit_once('.'))
        .map(|(_, extension)| extension);
    let is_of = |known: &[&str]| {
        extension.is_some_and(|extension| known.iter().any(|known| known.eq_ignore_ascii_case(extension)))
    };
    match () {
        () if is_of(SIGNATURE_EXTENSIONS) && !pass.signed => Err(Refusal::Signed),
        () if is_of(CERTIFICATE_EXTENSIONS) => Err(Refusal::Encrypted),
        () => Ok(()),
    }
}

/// Whether a file is a signature beside what it signs, by its type or its name.
pub(super) fn is_signature(media_type: &str, name: Option<&str>) -> bool {
    let extension = name
        .and_then(|name| name.rsplit_once('.'))
        .map(|(_, extension)| extension);
    let mut known = SIGNATURE_EXTENSIONS.iter().chain(&["asc", "sig"]);
    media_type.ends_with("-signature")
        || extension.is_some_and(|extension| known.any(|known| known.eq_ignore_ascii_case(extension)))
}

/// The type that an attachment leaves with.
pub(super) fn media_type(claimed: &str, name: Option<&str>) -> String {
    let extension = name
        .and_then(|name| name.rsplit_once('.'))
        .map(|(_, extension)| extension.to_ascii_lowercase());
    let by_extension = extension.and_then(|extension| {
        let found = TYPES.binary_search_by(|(known, _)| (*known).cmp(&extension)).ok()?;
        Some(TYPES[found].1)
    });
    by_extension
        .unwrap_or(if is_leaf_type(claimed) { claimed } else { OCTETS })
        .to_owned()
}

fn is_leaf_type(media_type: &str) -> bool {
    let is_token = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-._".contains(&byte))
    };
    let Some((kind, subtype)) = media_type.split_once('/') else {
        return false;
    };
    let is_kind = matches!(
        kind,
        "application" | "audio" | "font" | "image" | "model" | "text" | "video"
    );
    is_kind && is_token(subtype) && media_type.len() <= MEDIA_TYPE_LENGTH_MAX
}

/// A file name without path, control or direction characters, of bounded length; none when nothing is left.
pub(super) fn file_name(claimed: &str) -> Option<String> {
    let base = claimed.rsplit(['/', '\\']).next().unwrap_or_default();
    let visible: String = base
        .chars()
        .map(|character| if is_deceiving(character) { '_' } else { character })
        .collect();
    let name = collapse(&visible);
    let name = name.trim_end_matches(['.', ' ']);
    if name.is_empty() {
        return None;
    }
    if name.len() <= FILE_NAME_BYTES_MAX {
        return Some(name.to_owned());
    }
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if name.len() - dot <= EXTENSION_BYTES_MAX => name.split_at(dot),
        _ => (name, ""),
    };
    let stem = &stem[..stem.floor_char_boundary(FILE_NAME_BYTES_MAX - extension.len())];
    Some(stem.trim_end_matches(['.', ' ']).to_owned() + extension)
}

/// Quotes break old parsers; the others change the direction of what follows, so that `exe` can look like `txt`.
fn is_deceiving(character: char) -> bool {
    matches!(character, '"' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn file_names_keep_their_last_component_only() {
        for (claimed, name) in [
            ("report.pdf", Some("report.pdf")),
            ("C:\\Users\\alice\\Bericht über.pdf", Some("Bericht über.pdf")),
            ("/home/alice/../x.txt", Some("x.txt")),
            (".bashrc", Some(".bashrc")),
            ("..", None),
            ("", None),
            ("a\r\nX: y.txt", Some("a X: y.txt")),
            ("photo\u{202e}gpj.exe", Some("photo_gpj.exe")),
        ] {
            assert_eq!(file_name(claimed).as_deref(), name, "{claimed:?}");
        }
        let long = file_name(&("ü".repeat(500) + ".pdf")).expect("a name is left");
        assert!(long.ends_with(".pdf") && long.len() <= FILE_NAME_BYTES_MAX);
    }

    #[test]
    fn the_extension_decides_on_the_type() {
        assert!(TYPES.is_sorted());
        assert_eq!(
            media_type("application/x-zip-compressed", Some("a.ZIP")),
            "application/zip"
        );
        assert_eq!(media_type("application/x-odd", Some("a.odd")), "application/x-odd");
        assert_eq!(media_type("x-odd/odd", None), OCTETS);
    }

    proptest! {
        #[test]
        fn a_clean_name_stays_as_it_is(claimed: String, long in ".{0,300}\\.\\.? ?.{0,20}") {
            for claimed in [claimed, long] {
                let name = file_name(&claimed);
                prop_assert_eq!(name.as_deref().and_then(file_name), name);
            }
        }
    }
}
