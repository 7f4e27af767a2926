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

/// Where in a tag a sign stands.
#[derive(Clone, Copy)]
enum Within {
    /// Between attributes, or in the name of one.
    Names,
    /// Behind the equals sign: only here a quote opens a value.
    BeforeValue,
    /// In a value without quotes: an apostrophe is one of its signs.
    Value,
    /// In a value that this quote closes.
    Quoted(u8),
}

/// Where the tag whose inside `tag` is closes: the first `>` outside quoted values.
fn end(tag: &str) -> usize {
    let mut within = Within::Names;
    for (at, byte) in tag.bytes().enumerate() {
        within = match (within, byte) {
            (Within::Quoted(open), _) if open == byte => Within::Names,
            (Within::Quoted(_), _) => within,
            (_, b'>') => return at,
            (Within::Names, b'=') => Within::BeforeValue,
            (Within::BeforeValue, b'"' | b'\'') => Within::Quoted(byte),
            (Within::BeforeValue, _) if !byte.is_ascii_whitespace() => Within::Value,
            (Within::Value, _) if byte.is_ascii_whitespace() => Within::Names,
            _ => within,
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_ends_at_the_first_sign_outside_quoted_values() {
        for (inside, tag) in [
            ("p title=it's>text it's", "p title=it's"),
            ("p title=\"a>b\" x='>'>text", "p title=\"a>b\" x='>'"),
            ("p title = 'a>b'>text", "p title = 'a>b'"),
            ("p title=a'b'>c'>text", "p title=a'b'"),
            ("p it's>text", "p it's"),
            ("p title=\"a\"'>text'", "p title=\"a\"'"),
            ("p title=>text", "p title="),
            ("p title='a>text", "p title='a>text"),
        ] {
            assert_eq!(&inside[..end(inside)], tag);
        }
    }
}
