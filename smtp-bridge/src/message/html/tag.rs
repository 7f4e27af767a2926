//! HTML cut at its tags, without regard to what they mean.

/// What stands at a `<`.
pub(super) enum Markup<'a> {
    /// A comment, or nothing.
    Nothing,
    /// The sign itself: no tag begins here.
    Sign,
    /// A start tag.
    Start { name: String, attributes: &'a str },
    /// An end tag.
    End { name: String },
}

/// Takes the tag or comment that opens `markup`, and gives what follows it; behind a start tag whose element shows no
/// text, what follows the element.
pub(super) fn take(markup: &str) -> (Markup<'_>, &str) {
    if let Some(comment) = markup.strip_prefix("<!--") {
        return (
            Markup::Nothing,
            comment.split_once("-->").map_or("", |(_, after)| after),
        );
    }
    let Some(inside) = markup.strip_prefix('<') else {
        return (Markup::Nothing, "");
    };
    if !inside.starts_with(|first: char| first.is_ascii_alphabetic() || "/!?".contains(first)) {
        return (Markup::Sign, inside);
    }
    let (tag, after) = inside.split_at(end(inside));
    let after = after.get(1..).unwrap_or_default();
    let (is_end, tag) = tag.strip_prefix('/').map_or((false, tag), |tag| (true, tag));
    let (name, attributes) = tag.split_at(
        tag.find(|character: char| !character.is_ascii_alphanumeric())
            .unwrap_or(tag.len()),
    );
    let name = name.to_ascii_lowercase();
    let after = match name.as_str() {
        "style" | "script" | "title" if !is_end => after_hidden(&name, after),
        _ => after,
    };
    let found = if attributes.starts_with([':', '-', '_', '.']) {
        // A name with a colon is Word's, and no element of ours.
        Markup::Nothing
    } else if is_end {
        Markup::End { name }
    } else {
        Markup::Start { name, attributes }
    };
    (found, after)
}

/// Where the tag whose inside `tag` is closes: the first `>` outside quotes.
fn end(tag: &str) -> usize {
    let mut quote = None;
    for (at, byte) in tag.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    tag.len()
}

/// What follows the end tag of an element whose text is not shown; nothing when it is never closed.
fn after_hidden<'a>(name: &str, mut rest: &'a str) -> &'a str {
    while let Some((_, tag)) = rest.split_once("</") {
        if tag
            .get(..name.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(name))
        {
            return tag.split_once('>').map_or("", |(_, after)| after);
        }
        rest = tag;
    }
    ""
}
