//! A text that leaves as it is, with the signature over it (RFC 1847), since its sender asked for just that.

use mail_parser::decoders::base64::base64_decode;

use super::emit::{SIGNED_BOUNDARY, Writer};
use super::encode;
use super::header::{self, Headless};
use super::limits::{LINE_BYTES_MAX, PART_HEADER_BYTES_MAX};
use super::openpgp;
use super::params::Structured;
use super::refusal::Refusal;
use super::traces::Traces;

/// Digests that are told with a signature.
const DIGESTS: &[&str] = &[
    "md5",
    "sha-1",
    "sha1",
    "sha-224",
    "sha224",
    "sha-256",
    "sha256",
    "sha-384",
    "sha384",
    "sha-512",
    "sha512",
    "pgp-md5",
    "pgp-ripemd160",
    "pgp-sha1",
    "pgp-sha224",
    "pgp-sha256",
    "pgp-sha384",
    "pgp-sha512",
];

/// The two parts of a signed message.
pub(super) struct Signed {
    /// What is signed, header included: every octet, line ends as CRLF (RFC 3156 section 5).
    pub(super) part: Vec<u8>,
    digest: Option<&'static str>,
    signature: Signature,
}

/// A signature in the one way we write it.
enum Signature {
    OpenPgp(Vec<u8>),
    Smime(Vec<u8>),
}

impl Signed {
    /// Reads the parts of a multipart/signed.
    pub(super) fn read(digest: Option<&str>, parts: &[&[u8]]) -> Result<Self, Refusal> {
        let [part, signature] = parts else {
            return Err(Refusal::Structure);
        };
        Ok(Self {
            part: canonical(part)?,
            digest: DIGESTS
                .iter()
                .find(|known| digest.is_some_and(|digest| digest.eq_ignore_ascii_case(known)))
                .copied(),
            signature: Signature::read(signature)?,
        })
    }

    /// Whether a trace stands in the signature, as in the certificate that comes with one of S/MIME.
    pub(super) fn is_signature_with(&self, traces: &Traces) -> bool {
        let (Signature::OpenPgp(octets) | Signature::Smime(octets)) = &self.signature;
        traces.are_in_octets(octets)
    }

    /// Writes the rest of the header and the body.
    pub(super) fn write(&self, out: &mut Writer) {
        let (protocol, octets) = match &self.signature {
            Signature::OpenPgp(octets) => ("application/pgp-signature", octets),
            Signature::Smime(octets) => ("application/pkcs7-signature", octets),
        };
        let digest = self.digest.map_or(String::new(), |digest| format!(" micalg={digest};"));
        out.line("Content-Type: multipart/signed;");
        out.line(&format!(
            " protocol=\"{protocol}\";{digest} boundary=\"{SIGNED_BOUNDARY}\""
        ));
        out.line("");
        out.delimiter(SIGNED_BOUNDARY);
        out.bytes.extend_from_slice(&self.part);
        out.line("");
        out.delimiter(SIGNED_BOUNDARY);
        match &self.signature {
            Signature::OpenPgp(_) => {
                out.line(&format!("Content-Type: {protocol}; name=\"signature.asc\""));
                out.line("");
                out.line("-----BEGIN PGP SIGNATURE-----");
                out.line("");
                encode::base64_lines(octets, &mut out.bytes);
                out.line("-----END PGP SIGNATURE-----");
            }
            Signature::Smime(_) => {
                out.line(&format!("Content-Type: {protocol}; name=\"smime.p7s\""));
                out.line("Content-Transfer-Encoding: base64");
                out.line("");
                encode::base64_lines(octets, &mut out.bytes);
            }
        }
        out.close_multipart(SIGNED_BOUNDARY);
    }
}

impl Signature {
    fn read(part: &[u8]) -> Result<Self, Refusal> {
        let (header, body) = header::split(part, PART_HEADER_BYTES_MAX, Headless::Refuse)?;
        let value = |name: &str| Ok(Structured::parse(&header.one(name)?.unwrap_or_default()).value);
        let body = match value("Content-Transfer-Encoding")?.as_str() {
            "" | "7bit" | "8bit" | "binary" => body.to_vec(),
            "quoted-printable" => encode::quoted_printable_decoded(body).ok_or(Refusal::TransferEncoding)?,
            "base64" => base64_decode(body).ok_or(Refusal::TransferEncoding)?,
            _ => return Err(Refusal::TransferEncoding),
        };
        match value("Content-Type")?.as_str() {
            "application/pgp-signature" => {
                let octets = std::str::from_utf8(&body).ok().and_then(openpgp::detached_signature);
                octets.map(Self::OpenPgp).ok_or(Refusal::Structure)
            }
            "application/pkcs7-signature" | "application/x-pkcs7-signature" if !body.is_empty() => {
                Ok(Self::Smime(body))
            }
            _ => Err(Refusal::Structure),
        }
    }
}

/// The signed part as it travels. What could not leave octet for octet is refused, since it would break the signature.
fn canonical(part: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::with_capacity(part.len() + part.len() / 32);
    for line in part.split_inclusive(|&byte| byte == b'\n') {
        let (content, end) = match line.strip_suffix(b"\n") {
            Some(content) => (content.strip_suffix(b"\r").unwrap_or(content), &b"\r\n"[..]),
            None => (line, &b""[..]),
        };
        let is_plain = content.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
        let is_delimiter = content
            .strip_prefix(b"--")
            .is_some_and(|rest| rest.starts_with(SIGNED_BOUNDARY.as_bytes()));
        if !is_plain || is_delimiter || content.len() > LINE_BYTES_MAX {
            return Err(Refusal::Structure);
        }
        out.extend_from_slice(content);
        out.extend_from_slice(end);
    }
    Ok(out)
}
