//! HTML to plain text, in one pass: words, paragraphs, lists, quotes and links; nothing is fetched, styled or run.

mod clean;
mod tag;

use mail_parser::decoders::html::add_html_token;

use self::tag::Markup;
use super::words::collapse;
pub(super) use clean::{clean, of_text, percent_decoded};

/// Deepest quoting that is written out.
const QUOTE_DEPTH_MAX: usize = 10;

/// Longest character reference looked for, `&CounterClockwiseContourIntegral;`.
const REFERENCE_LENGTH_MAX: usize = 33;

/// Converts a document to text of at most `length_max` bytes; none when it would be longer.
pub(super) fn to_text(html: &str, length_max: usize) -> Option<String> {
    let mut page = Page::new(length_max);
    let mut rest = html;
    while !rest.is_empty() && !page.is_full {
        let (text, markup) = rest.split_at(rest.find('<').unwrap_or(rest.len()));
        page.text(text);
        rest = page.markup(markup);
    }
    page.end_link();
    if page.is_full { None } else { Some(page.out) }
}

/// The text written so far, and what is due before the next visible character.
#[derive(Default)]
struct Page<'a> {
    out: String,
    length_max: usize,
    is_full: bool,
    /// Line ends that are due; two make an empty line.
    breaks: usize,
    has_space: bool,
    has_bullet: bool,
    /// Open `pre` elements.
    preformatted: usize,
    /// Open `blockquote` elements.
    quotes: usize,
    /// Target of the open link, and where its words begin.
    link: Option<(&'a str, usize)>,
}

impl<'a> Page<'a> {
    fn new(length_max: usize) -> Self {
        Self {
            length_max,
            ..Self::default()
        }
    }

    fn text(&mut self, text: &str) {
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            if let Some((decoded, after)) = reference(rest) {
                decoded.chars().for_each(|character| self.character(character));
                rest = after;
            } else {
                self.character(character);
                rest = &rest[character.len_utf8()..];
            }
        }
    }

    fn character(&mut self, character: char) {
        match character {
            '\n' if self.preformatted > 0 => self.breaks += 1,
            ' ' | '\t' if self.preformatted > 0 => self.visible(character),
            ' ' | '\t' | '\r' | '\n' | '\u{c}' => self.has_space = true,
            // Composers write two spaces as a hard and a soft one.
            '\u{a0}' => self.visible(' '),
            control if control.is_control() => {}
            other => self.visible(other),
        }
    }

    /// Writes a character, unless the page is full: a line of two characters can grow tenfold by its quote marks.
    fn visible(&mut self, character: char) {
        self.is_full |= self.out.len() >= self.length_max;
        if !self.is_full {
            self.flush();
            self.out.push(character);
        }
    }

    fn words(&mut self, words: &str) {
        words.chars().for_each(|character| self.visible(character));
    }

    /// Writes what is due: line ends, quote marks and bullet, or a space.
    fn flush(&mut self) {
        if self.breaks > 0 && !self.out.is_empty() {
            self.out.truncate(self.out.trim_end_matches(' ').len());
            self.out.extend(std::iter::repeat_n('\n', self.breaks));
        }
        if self.out.is_empty() || self.out.ends_with('\n') {
            self.out
                .extend(std::iter::repeat_n("> ", self.quotes.min(QUOTE_DEPTH_MAX)));
            self.out.push_str(if self.has_bullet { "- " } else { "" });
            self.has_bullet = false;
        } else if self.has_space && !self.out.ends_with(' ') {
            self.out.push(' ');
        }
        self.breaks = 0;
        self.has_space = false;
    }

    /// Takes the tag or comment that opens `markup` and gives what follows it.
    fn markup(&mut self, markup: &'a str) -> &'a str {
        let (found, after) = tag::take(markup);
        match found {
            Markup::Nothing => {}
            Markup::Sign => self.visible('<'),
            Markup::Start { name, attributes } => self.open(&name, attributes),
            Markup::End { name } => self.close(&name),
        }
        after
    }

    fn open(&mut self, name: &str, attributes: &'a str) {
        self.breaks = self.breaks.max(breaks_around(name));
        match name {
            "br" => self.breaks += 1,
            "hr" => {
                self.words("* * *");
                self.breaks = 1;
            }
            "li" => self.has_bullet = true,
            "td" | "th" => self.has_space = true,
            "img" => self.words(&attribute_text(attribute(attributes, "alt").unwrap_or_default())),
            "pre" => self.preformatted += 1,
            "blockquote" => self.quotes += 1,
            "a" => {
                self.end_link();
                self.link = attribute(attributes, "href").map(|target| (target, self.out.len()));
            }
            _ => {}
        }
    }

    fn close(&mut self, name: &str) {
        self.breaks = self.breaks.max(breaks_around(name));
        match name {
            "pre" => self.preformatted = self.preformatted.saturating_sub(1),
            "blockquote" => self.quotes = self.quotes.saturating_sub(1),
            "a" => self.end_link(),
            _ => {}
        }
    }

    /// Writes the target of a link behind its words, unless they already say it.
    fn end_link(&mut self) {
        let Some((target, start)) = self.link.take() else {
            return;
        };
        let target = attribute_text(target);
        let shown = self.out.get(start..).unwrap_or_default();
        let is_web = ["http://", "https://"].iter().any(|scheme| {
            target
                .get(..scheme.len())
                .is_some_and(|it| it.eq_ignore_ascii_case(scheme))
        });
        if is_web && !shown.trim().is_empty() && !shown.contains(target.trim_end_matches('/')) {
            self.has_space = true;
            self.words(&format!("<{target}>"));
        }
    }
}

/// The line ends that part an element from what stands before and after it.
fn breaks_around(name: &str) -> usize {
    match name {
        "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "table" | "pre" | "blockquote" | "dl" => 2,
        "address" | "article" | "body" | "center" | "dd" | "div" | "dt" | "footer" | "form" | "header" | "hr"
        | "li" | "ol" | "section" | "tr" | "ul" => 1,
        _ => 0,
    }
}

/// The character reference that opens `text`, and what follows it.
fn reference(text: &str) -> Option<(String, &str)> {
    let name = text.strip_prefix('&')?;
    let end = name
        .bytes()
        .take(REFERENCE_LENGTH_MAX)
        .position(|byte| !byte.is_ascii_alphanumeric() && byte != b'#')?;
    let after = name[end..].strip_prefix(';').filter(|_| end > 0)?;
    let mut decoded = String::new();
    add_html_token(&mut decoded, &text.as_bytes()[..end + 2], false);
    Some((decoded, after))
}

/// Text with its character references resolved, all else as it is.
pub(super) fn unescaped(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        match reference(rest) {
            Some((characters, after)) => {
                decoded.push_str(&characters);
                rest = after;
            }
            None => {
                decoded.push('&');
                rest = &rest[1..];
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

/// An attribute's value in one line, its character references resolved.
fn attribute_text(value: &str) -> String {
    let mut page = Page::new(value.len());
    page.text(value);
    collapse(&page.out)
}

/// The raw value of an attribute.
fn attribute<'a>(attributes: &'a str, wanted: &str) -> Option<&'a str> {
    const BLANK: [char; 4] = [' ', '\t', '\r', '\n'];
    let mut rest = attributes;
    loop {
        rest = rest
            .trim_start_matches(BLANK)
            .trim_start_matches('/')
            .trim_start_matches(BLANK);
        if rest.is_empty() {
            return None;
        }
        let (name, after) = rest.split_at(rest.find([' ', '\t', '\r', '\n', '=', '/']).unwrap_or(rest.len()));
        let Some(value) = after.trim_start_matches(BLANK).strip_prefix('=') else {
            rest = after;
            continue;
        };
        let value = value.trim_start_matches(BLANK);
        let (value, after) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
            _ => value.split_at(value.find(BLANK).unwrap_or(value.len())),
        };
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documents_become_readable_text() {
        for (html, text) in [
            (
                "<p>Hello <b>Bob</b>,</p>\r\n<p>two\n  words&nbsp;&amp; more</p>",
                "Hello Bob,\n\ntwo words & more",
            ),
            ("a<br>b<br/><br />c", "a\nb\n\nc"),
            ("<div>a</div><div><br></div><div>b</div>", "a\n\nb"),
            ("<ul><li>one</li><li><p>two</p></li></ul>end", "- one\n\n- two\n\nend"),
            (
                "x<blockquote type=cite>q<br>r<blockquote>s</blockquote></blockquote>y",
                "x\n\n> q\n> r\n\n> > s\n\ny",
            ),
            ("<pre>a  b\n\n  c</pre>", "a  b\n\n  c"),
            (
                "<a href=\"https://x.example/?a=1&amp;b=2\">there</a>.",
                "there <https://x.example/?a=1&b=2>.",
            ),
            (
                "<a href='https://x.example/'>https://x.example</a> <a href=#top>up</a>",
                "https://x.example up",
            ),
            (
                "<table><tr><td>a</td><td>b</td></tr><tr><th>c</th></tr></table>",
                "a b\nc",
            ),
            (
                "a<hr>b<img src=http://t.example/x.gif alt=\"a cat\">",
                "a\n* * *\nba cat",
            ),
            (
                "<head><title>t</title><style>p > a {}</style></head><body>b<script>if (a</b) {}</script>",
                "b",
            ),
            ("a<!-- c > --><!--[if mso]><p>m</p><![endif]-->b<![endif]>", "ab"),
            (
                "1 < 2 & 3 &lt; 4 &unknown; &#x41;&#0;&#13;&#8364;",
                "1 < 2 & 3 < 4 &unknown; A €",
            ),
            ("<o:p></o:p><p class=\"a>b\">x</p", "x"),
            ("unclosed <a href=\"x", "unclosed"),
            ("<!-- open", ""),
        ] {
            assert_eq!(to_text(html, 1_000).as_deref(), Some(text), "{html}");
        }
    }

    #[test]
    fn text_beyond_the_bound_is_no_text() {
        assert_eq!(to_text(&"<li>x".repeat(1_000), 1_000), None);
        assert_eq!(to_text(&format!("<blockquote><pre>{}", "\nx".repeat(400)), 1_000), None);
        assert_eq!(to_text("12345", 5).as_deref(), Some("12345"));
        assert_eq!(to_text("123456", 5), None);
    }

    #[test]
    fn hostile_markup_takes_linear_time() {
        for piece in [
            "<a href='x' ",
            "<!--",
            "<style>",
            "</",
            "<",
            "&",
            "<blockquote>a",
            "<a href=x>",
            "<title></titl",
            "&#",
        ] {
            let _ = to_text(&piece.repeat(2_000_000 / piece.len()), 10_000_000);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(html: String, tags in "(<|>|&|;|a|p|br|pre|li|\"|'|=| |/|!--|--|ü|\n|#x0){0,60}") {
            for html in [html, tags] {
                let text = to_text(&html, 10_000).expect("short");
                prop_assert!(text.chars().all(|character| character == '\n' || character == '\t' || !character.is_control()));
            }
        }
    }
}
