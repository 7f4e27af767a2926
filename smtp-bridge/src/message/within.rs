//! Traces of the user in what leaves octet for octet, since it is signed: every field and every text in it is looked through with its
//! encodings undone, the alternatives too that a recipient may never be shown.

use super::charset;
use super::entity::{ContentType, TransferEncoding, split};
use super::header::{self, Header, Headless};
use super::html::percent_decoded;
use super::limits::{DEPTH_MAX, PART_HEADER_BYTES_MAX};
use super::params::Structured;
use super::refusal::Refusal;
use super::traces::Traces;
use super::words;

/// Whether a trace stands in an entity, header included. What cannot be decoded is refused: nobody could look it through.
pub(super) fn are_in_entity(traces: &Traces, entity: &[u8], depth: usize) -> Result<bool, Refusal> {
    let (header, body) = header::split(entity, PART_HEADER_BYTES_MAX, Headless::Refuse)?;
    if are_in_fields(traces, &header)? {
        return Ok(true);
    }
    let content_type = ContentType::of(&header)?;
    if content_type.media_type.starts_with("multipart/") {
        if depth == DEPTH_MAX {
            return Err(Refusal::TooDeep);
        }
        for part in split(body, &content_type.boundary()?)? {
            if are_in_entity(traces, part, depth + 1)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    if !content_type.media_type.starts_with("text/") {
        return Ok(false);
    }
    let octets = TransferEncoding::of(&header)?.decode(body)?;
    let is_html = content_type.media_type == "text/html";
    let found = match charset::decode(&octets, content_type.structured.param("charset")?.as_deref()) {
        Ok(text) => traces.are_in(&text) || (is_html && traces.are_in_html(&text)),
        // Attached text may be in any charset.
        Err(_) => traces.are_in_octets(&octets),
    };
    Ok(found)
}

/// Each field as it stands, with its encoded words, with its percent signs, and each parameter.
fn are_in_fields(traces: &Traces, header: &Header<'_>) -> Result<bool, Refusal> {
    for value in header.values() {
        let value = value?;
        let decoded = words::decode(&value)?;
        if traces.are_in(&value) || traces.are_in(&decoded) || traces.are_in(&percent_decoded(&decoded)) {
            return Ok(true);
        }
        for param in Structured::parse(&value).params() {
            if traces.are_in(&param?) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
