//! HTML written anew: the elements of a text, the targets of its links and the pictures that came with it.
//!
//! Nothing of the source is copied. What it says is read as [`to_text`](super::to_text) reads it, and written with the
//! elements and attributes of the two lists below, every character of text and attributes escaped. None of these
//! elements switches a reader to another way of reading, so that what is written here is read as it is written; and
//! written again, it stays.

use std::borrow::Cow;
use std::fmt::Write;

use super::tag::{self, Markup};
use super::{attribute, attribute_text, reference};

/// Elements with an end. Where it breaks the text, white space beside an element is no text.
const ELEMENTS: &[&str] = &[
    "a",
    "b",
    "blockquote",
    "caption",
    "cite",
    "code",
    "dd",
    "del",
    "div",
    "dl",
    "dt",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "i",
    "ins",
    "kbd",
    "li",
    "mark",
    "ol",
    "p",
    "pre",
    "q",
    "s",
    "samp",
    "small",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
    "u",
    "ul",
    "var",
];

/// Elements of [`ELEMENTS`] that stand in a line.
const IN_LINE: &[&str] = &[
    "a", "b", "cite", "code", "del", "em", "i", "ins", "kbd", "mark", "q", "s", "samp", "small", "strong", "sub",
    "sup", "u", "var",
];

/// Elements inside one another that are followed; deeper ones leave their text alone.
const DEPTH_MAX: usize = 64;

/// Where links may lead.
const SCHEMES: &[&str] = &["http://", "https://", "mailto:"];

/// Writes a document anew, at most `length_max` bytes of it; none when it would be longer. `image` gives the source of a
/// picture that came with the message, by the Content-ID it is shown under.
pub(in super::super) fn clean(
    html: &str,
    image: &mut dyn FnMut(&str) -> Option<String>,
    length_max: usize,
) -> Option<String> {
    let mut page = Page {
        out: String::new(),
        open: Vec::new(),
        preformatted: 0,
        has_space: false,
        is_fresh: true,
        image,
    };
    let mut rest = html;
    while !rest.is_empty() && page.out.len() <= length_max {
        let (text, markup) = rest.split_at(rest.find('<').unwrap_or(rest.len()));
        page.text(text);
        rest = page.markup(markup);
    }
    page.close_down_to(0);
    (page.out.len() <= length_max).then_some(page.out)
}

/// Plain text as HTML, for a message whose other parts are.
pub(in super::super) fn of_text(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + 16);
    for line in text.lines() {
        escape(line, &mut html);
        html.push_str("<br>");
    }
    html
}

struct Page<'i> {
    out: String,
    open: Vec<&'static str>,
    /// Open `pre` elements, in which white space is text.
    preformatted: usize,
    /// White space that is due before the next character.
    has_space: bool,
    /// Whether white space is no text here: at the start, and beside what breaks the line.
    is_fresh: bool,
    image: &'i mut dyn FnMut(&str) -> Option<String>,
}

impl Page<'_> {
    fn text(&mut self, text: &str) {
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            match reference(rest) {
                Some((decoded, after)) => {
                    decoded.chars().for_each(|character| self.character(character));
                    rest = after;
                }
                None => {
                    self.character(character);
                    rest = &rest[character.len_utf8()..];
                }
            }
        }
    }

    fn character(&mut self, character: char) {
        match character {
            '\r' => {}
            '\n' | ' ' | '\t' if self.preformatted > 0 => self.out.push(character),
            ' ' | '\t' | '\n' | '\u{c}' => self.has_space = true,
            // Invisible: marks of byte order, which show the client.
            '\u{feff}' => {}
            control if control.is_control() => {}
            other => {
                self.space();
                self.is_fresh = false;
                escape(other.encode_utf8(&mut [0; 4]), &mut self.out);
            }
        }
    }

    /// Writes the white space that is due, unless it is none here.
    fn space(&mut self) {
        if std::mem::take(&mut self.has_space) && !self.is_fresh {
            self.out.push(' ');
        }
    }

    /// Takes the tag or comment that opens `markup` and gives what follows it.
    fn markup<'a>(&mut self, markup: &'a str) -> &'a str {
        let (found, after) = tag::take(markup);
        match found {
            Markup::Nothing => {}
            Markup::Sign => self.character('<'),
            Markup::Start { name, attributes } => self.open(&name, attributes),
            Markup::End { name } => self.close(&name),
        }
        after
    }

    fn open(&mut self, name: &str, attributes: &str) {
        match name {
            "br" | "hr" => {
                self.break_line();
                self.out.push('<');
                self.out.push_str(name);
                self.out.push('>');
                self.end_line();
            }
            "img" => self.picture(attributes),
            _ => {
                let Ok(found) = ELEMENTS.binary_search(&name) else {
                    return;
                };
                self.element(ELEMENTS[found], attributes);
            }
        }
    }

    fn element(&mut self, name: &'static str, attributes: &str) {
        if name == "a" {
            self.close("a");
        }
        if self.open.len() >= DEPTH_MAX {
            return;
        }
        let mut tag = format!("<{name}");
        match name {
            "a" => match attribute(attributes, "href").and_then(link) {
                Some(target) => write_attribute(&mut tag, "href", &target),
                // An anchor within the page leads nowhere in a message.
                None => return,
            },
            "td" | "th" => {
                for span in ["colspan", "rowspan"] {
                    write_number(&mut tag, span, attributes);
                }
            }
            "ol" => write_number(&mut tag, "start", attributes),
            _ => {}
        }
        tag.push('>');
        match is_in_line(name) {
            true => self.space(),
            false => {
                self.end_what_cannot_hold(name);
                self.break_line();
            }
        }
        self.out.push_str(&tag);
        self.open.push(name);
        self.preformatted += usize::from(name == "pre");
    }

    /// Paragraphs, items and cells are left open by many writers: the next one ends them.
    fn end_what_cannot_hold(&mut self, name: &str) {
        let ends: &[&str] = match name {
            "li" => &["p", "li"],
            "dd" | "dt" => &["p", "dd", "dt"],
            "td" | "th" => &["p", "td", "th"],
            "tr" => &["p", "td", "th", "tr"],
            _ => &["p"],
        };
        while let Some(depth) = self.open.iter().rposition(|open| !is_in_line(open))
            && ends.contains(&self.open[depth])
        {
            self.close_down_to(depth);
        }
    }

    fn picture(&mut self, attributes: &str) {
        let alt = attribute(attributes, "alt").map(attribute_text).unwrap_or_default();
        let source = attribute(attributes, "src").map(attribute_text).unwrap_or_default();
        let shown = source
            .get(..4)
            .filter(|scheme| scheme.eq_ignore_ascii_case("cid:"))
            .and_then(|_| (self.image)(&percent_decoded(&source[4..])));
        match shown {
            Some(content_id) => {
                self.space();
                self.is_fresh = false;
                self.out.push_str("<img");
                write_attribute(&mut self.out, "src", &format!("cid:{content_id}"));
                write_attribute(&mut self.out, "alt", &alt);
                self.out.push('>');
            }
            // Nothing is fetched from elsewhere.
            None => alt.chars().for_each(|character| self.character(character)),
        }
    }

    /// Closes the innermost element of this name, and what is open inside it.
    fn close(&mut self, name: &str) {
        if let Some(depth) = self.open.iter().rposition(|open| *open == name) {
            self.close_down_to(depth);
        }
    }

    fn close_down_to(&mut self, depth: usize) {
        while self.open.len() > depth {
            let Some(name) = self.open.pop() else { return };
            let breaks = !is_in_line(name);
            if breaks {
                self.break_line();
            }
            let _ = write!(self.out, "</{name}>");
            self.preformatted -= usize::from(name == "pre");
            if breaks {
                self.end_line();
            }
        }
    }

    /// White space before what breaks the line is no text, nor is that behind it.
    fn break_line(&mut self) {
        self.has_space = false;
        self.is_fresh = true;
    }

    /// A line of the source for each line of the text.
    fn end_line(&mut self) {
        if self.preformatted == 0 {
            self.out.push('\n');
        }
    }
}

fn is_in_line(name: &str) -> bool {
    IN_LINE.binary_search(&name).is_ok()
}

/// The target of a link in one spelling, if it is one that a message may have.
fn link(value: &str) -> Option<String> {
    let target = attribute_text(value);
    let scheme = SCHEMES.iter().find(|scheme| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    })?;
    let rest = &target[scheme.len()..];
    let is_whole = !rest.is_empty() && !rest.contains(char::is_whitespace);
    is_whole.then(|| format!("{scheme}{rest}"))
}

fn write_attribute(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, " {name}=\"");
    escape(value, out);
    out.push('"');
}

/// An attribute that is a small number, if it is there.
fn write_number(out: &mut String, name: &str, attributes: &str) {
    let number = attribute(attributes, name).and_then(|value| value.trim().parse::<u16>().ok());
    if let Some(number) = number.filter(|number| (1..=1_000).contains(number)) {
        let _ = write!(out, " {name}=\"{number}\"");
    }
}

fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
}

/// A Content-ID as it stands in a URL (RFC 2392).
pub(in super::super) fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = super::super::encode::unescaped(text.as_bytes(), b'%');
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cleaned(html: &str) -> String {
        let mut image = |id: &str| id.starts_with("known").then(|| "image.1@part".to_owned());
        clean(html, &mut image, 10_000).expect("short")
    }

    #[test]
    fn the_lists_are_in_order() {
        assert!(ELEMENTS.is_sorted() && IN_LINE.is_sorted());
        assert!(IN_LINE.iter().all(|name| ELEMENTS.contains(name)));
    }

    #[test]
    fn documents_are_written_with_a_few_elements() {
        for (html, expected) in [
            (
                "<html><head><title>t</title><meta name=Generator content=\"Word\"><style>p{}</style></head>\r\n<body lang=DE>\r\n\
                 <p class=\"MsoNormal\" id=x data-y=1 style='color:red'>Hello  <B onclick=\"f()\">Bob</B>,<o:p></o:p></p>\r\n</body></html>",
                "<p>Hello <b>Bob</b>,</p>\n",
            ),
            ("a<br/>b<BR>c<hr width=3>", "a<br>\nb<br>\nc<hr>\n"),
            (
                "<a href='HTTPS://x.example/?a=1&amp;b=\"2\"' target=_blank ping=y>there</a>",
                "<a href=\"https://x.example/?a=1&amp;b=&quot;2&quot;\">there</a>",
            ),
            (
                "<a name=top>a</a><a href=\"javascript:f()\">b</a><a href=#c>c</a>",
                "abc",
            ),
            (
                "<a href=http://x>one<a href=http://y>two</a></a>",
                "<a href=\"http://x\">one</a><a href=\"http://y\">two</a>",
            ),
            (
                "<img src=http://t.example/x.gif alt='a &amp; cat'><img src=x>",
                "a &amp; cat",
            ),
            (
                "<img src=\"cid:known%31\" width=1 alt=dog>",
                "<img src=\"cid:image.1@part\" alt=\"dog\">",
            ),
            ("<img src=cid:unknown>x", "x"),
            (
                "<script>alert('</p>')</script>a<style>b{}</style><!-- c --><!--[if mso]><p>m</p><![endif]-->",
                "a",
            ),
            ("<p>a<p>b<i>c</p>d", "<p>a</p>\n<p>b<i>c</i></p>\nd"),
            (
                "<ul><li>a<li><p>b<ul><li>c</ul>d</ul><table><td>x<td>y<tr><td>z</table>",
                "<ul><li>a</li>\n<li><p>b</p>\n<ul><li>c</li>\n</ul>\nd</li>\n</ul>\n<table><td>x</td>\n<td>y</td>\n<tr><td>z</td>\n</tr>\n</table>\n",
            ),
            ("</b></div>x<svg><a xlink:href=http://x>y</a></svg>", "xy"),
            (
                "1 < 2 & 3 &lt;b&gt; &quot;&#60;i>&#0;&#x1b;\u{feff}",
                "1 &lt; 2 &amp; 3 &lt;b&gt; &quot;&lt;i&gt;",
            ),
            ("<pre>\r\n a  b\r\n\tc<br>d</pre> x", "<pre>\n a  b\n\tc<br>d</pre>\nx"),
            (
                "<table border=1><tr><td colspan=2 rowspan='x'> a </td></tr></table>",
                "<table><tr><td colspan=\"2\">a</td>\n</tr>\n</table>\n",
            ),
            (
                "<ol start=3 type=a>\n<li>x\n</ol>",
                "<ol start=\"3\"><li>x</li>\n</ol>\n",
            ),
            ("", ""),
        ] {
            assert_eq!(cleaned(html), expected, "{html}");
        }
        assert_eq!(clean("&&&&", &mut |_| None, 10), None);
    }

    #[test]
    fn nesting_is_bounded_and_the_text_stays() {
        let deep = cleaned(&("<div>".repeat(1_000) + "x"));
        assert_eq!(
            (deep.matches("<div>").count(), deep.matches("</div>").count()),
            (64, 64)
        );
        assert!(deep.contains(">x<"));
    }

    #[test]
    fn hostile_markup_takes_linear_time() {
        for piece in [
            "<b><p>",
            "<p><b id=x>",
            "<a href=http://x>",
            "</a>",
            "<table><td>",
            "<pre>\n",
            "&amp;",
            "<!--",
            "<svg><",
        ] {
            let html = piece.repeat(2_000_000 / piece.len());
            let _ = clean(&html, &mut |_| None, 20_000_000);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_stays_and_has_nothing_else_in_it(
            html: String,
            tags in "(<|>|&|;|a|p|br|pre|li|td|img|\"|'|=| |/|!--|--|ü|\n|\r|#60|lt|href|http://x|src|cid:known|<b>|</b>|<pre>|</pre>){0,80}",
        ) {
            for html in [html, tags] {
                let once = cleaned(&html);
                prop_assert_eq!(cleaned(&once), once.clone());
                for tag in once.split('<').skip(1) {
                    let (tag, text) = tag.split_once('>').expect("every tag is closed");
                    prop_assert!(!text.contains('>'));
                    let name = tag.trim_start_matches('/').split(' ').next().unwrap_or_default();
                    prop_assert!(ELEMENTS.contains(&name) || ["br", "hr", "img"].contains(&name), "{}", tag);
                    let attributes = tag.split('"').step_by(2).collect::<String>();
                    let known = |name: &str| {
                        ["href=", "src=", "alt=", "colspan=", "rowspan=", "start="].contains(&name)
                    };
                    prop_assert!(attributes.split(' ').skip(1).all(known), "{}", tag);
                }
            }
        }
    }
}
