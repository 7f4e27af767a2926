//! The options of sendmail, as far as programs use them; what only steers a queue or a log is passed over.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::smtp::{envelope_id_word, is_notify, is_ret};

/// What the process is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::cli) enum Mode {
    /// Take one message from standard input.
    #[default]
    Message,
    /// Speak SMTP on standard input and output (`-bs`).
    Smtp,
    /// Print the queue (`-bp`).
    Queue,
    /// Nothing: aliases need no rebuilding (`-bi`), the queue runs by itself (`-q`).
    Nothing,
}

/// The command line, understood.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::cli) struct Options {
    /// Data folder of the bridge; none: where it is by itself.
    pub(in crate::cli) dir: Option<PathBuf>,
    pub(in crate::cli) mode: Mode,
    /// Take recipients from the header too (`-t`).
    pub(in crate::cli) from_header: bool,
    /// A line with a dot alone does not end the message (`-i`, `-oi`).
    pub(in crate::cli) dots_are_text: bool,
    /// The sender (`-f`, `-r`).
    pub(in crate::cli) sender: Option<String>,
    pub(in crate::cli) recipients: Vec<String>,
    /// Which reports are wanted (`-N`), as RCPT says it.
    pub(in crate::cli) notify: Option<String>,
    /// How much of the message they return (`-R`), as MAIL says it.
    pub(in crate::cli) ret: Option<String>,
    /// What they call the message (`-V`), as MAIL says it.
    pub(in crate::cli) envelope_id: Option<String>,
}

/// Options whose value is a word of its own where it does not follow at once.
const WITH_VALUE: &[char] = &[
    'B', 'C', 'D', 'F', 'L', 'N', 'O', 'R', 'V', 'X', 'd', 'f', 'h', 'p', 'r',
];
/// Options without any value.
const FLAGS: &[char] = &['A', 'G', 'I', 'U', 'i', 'm', 'n', 's', 't', 'v', 'x'];

impl Options {
    /// Reads the words after the program's name. The error is a sentence.
    pub(super) fn parse(words: Vec<OsString>) -> Result<Self, String> {
        let mut options = Options::default();
        let mut words = words.into_iter();
        let mut only_recipients = false;
        while let Some(word) = words.next() {
            let word = text(word)?;
            if only_recipients || !word.starts_with('-') || word == "-" {
                options.recipients.extend(split(&word));
            } else if word == "--" {
                only_recipients = true;
            } else if let Some(rest) = word.strip_prefix("--") {
                options.long(rest, &mut words)?;
            } else {
                options.short(&word, &mut words)?;
            }
        }
        Ok(options)
    }

    fn long(&mut self, option: &str, words: &mut impl Iterator<Item = OsString>) -> Result<(), String> {
        let dir = match option.split_once('=') {
            Some(("dir", dir)) => dir.to_owned().into(),
            None if option == "dir" => words.next().ok_or("--dir needs a folder")?,
            _ => return Err(format!("--{option} is not known here")),
        };
        self.dir = Some(dir.into());
        Ok(())
    }

    /// A word of one or more letters after a dash.
    fn short(&mut self, word: &str, words: &mut impl Iterator<Item = OsString>) -> Result<(), String> {
        let mut letters = word[1..].chars();
        while let Some(letter) = letters.next() {
            match letter {
                't' => self.from_header = true,
                'i' => self.dots_are_text = true,
                'b' => return self.mode(letters.as_str()),
                'q' => {
                    self.mode = Mode::Nothing;
                    return Ok(());
                }
                'o' => {
                    // "-oi", and settings that mean nothing here, as "-oem".
                    self.dots_are_text |= letters.as_str() == "i";
                    return Ok(());
                }
                letter if WITH_VALUE.contains(&letter) => {
                    let rest = letters.as_str();
                    let value = match rest {
                        // A debugging level is never a word of its own.
                        "" if letter == 'd' => String::new(),
                        "" => text(words.next().ok_or_else(|| format!("-{letter} needs a value"))?)?,
                        rest => rest.to_owned(),
                    };
                    match letter {
                        'f' | 'r' => self.sender = Some(value),
                        'N' | 'R' | 'V' => self.report(letter, &value)?,
                        _ => {}
                    }
                    return Ok(());
                }
                letter if FLAGS.contains(&letter) => {}
                letter => return Err(format!("-{letter} is not known here")),
            }
        }
        Ok(())
    }

    /// What is said of reports (RFC 3461).
    fn report(&mut self, letter: char, value: &str) -> Result<(), String> {
        let (field, word, why) = match letter {
            'N' => {
                let why = "-N is 'never', or some of 'success,failure,delay'";
                (&mut self.notify, is_notify(value).then(|| value.to_owned()), why)
            }
            'R' => (
                &mut self.ret,
                is_ret(value).then(|| value.to_owned()),
                "-R is 'full' or 'hdrs'",
            ),
            _ => {
                let why = "-V is printable ASCII, and short";
                (&mut self.envelope_id, envelope_id_word(value), why)
            }
        };
        *field = Some(word.ok_or(why)?);
        Ok(())
    }

    fn mode(&mut self, name: &str) -> Result<(), String> {
        self.mode = match name {
            "m" | "" => Mode::Message,
            "s" => Mode::Smtp,
            "p" => Mode::Queue,
            "i" => Mode::Nothing,
            other => return Err(format!("-b{other} is not known here: 'postern bridge' is the daemon")),
        };
        Ok(())
    }
}

fn text(word: OsString) -> Result<String, String> {
    word.into_string().map_err(|_| "an argument is not text".to_owned())
}

/// Recipients of one argument; some programs put several into one.
pub(super) fn split(word: &str) -> impl Iterator<Item = String> {
    let inner = |part: &str| {
        let part = part.trim();
        let bare = part.strip_prefix('<').and_then(|part| part.strip_suffix('>'));
        bare.unwrap_or(part).to_owned()
    };
    word.split(',').map(inner).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn what_programs_say_is_understood() {
        let cases = [
            // git send-email
            (
                "-f me@relay.test -i a@out.test b@out.test",
                "me@relay.test",
                false,
                true,
                2,
            ),
            // cron
            ("-FCronDaemon -i -B8BITMIME -oem root", "", false, true, 1),
            // mutt
            (
                "-oem -oi -f me@relay.test -- -odd@out.test",
                "me@relay.test",
                false,
                true,
                1,
            ),
            // PHP
            ("-t -i", "", true, true, 0),
            ("-ti -N success,delay -R hdrs -V id", "", true, true, 0),
            (
                "--dir /somewhere -rme@relay.test a@out.test,<b@out.test>",
                "me@relay.test",
                false,
                false,
                2,
            ),
        ];
        for (line, sender, from_header, dots_are_text, recipients) in cases {
            let options = options(line).unwrap();
            assert_eq!(options.sender.as_deref().unwrap_or_default(), sender, "{line}");
            assert_eq!(
                (options.from_header, options.dots_are_text),
                (from_header, dots_are_text),
                "{line}"
            );
            assert_eq!(options.recipients.len(), recipients, "{line}");
            assert_eq!(options.mode, Mode::Message, "{line}");
        }
        let asked = options("-Nsuccess,delay -R hdrs -V a+b=c").unwrap();
        let words = [&asked.notify, &asked.ret, &asked.envelope_id].map(|word| word.as_deref().unwrap_or_default());
        assert_eq!(words, ["success,delay", "hdrs", "a+2Bb+3Dc"]);
        assert_eq!(options("--dir=/x -bs").unwrap().dir, Some("/x".into()));
        for (line, mode) in [
            ("-bs", Mode::Smtp),
            ("-bp", Mode::Queue),
            ("-q15m", Mode::Nothing),
            ("-bm", Mode::Message),
        ] {
            assert_eq!(options(line).unwrap().mode, mode, "{line}");
        }
    }

    #[test]
    fn what_is_not_known_is_said() {
        for line in [
            "-bd",
            "-Z",
            "--help-me",
            "-f",
            "--dir",
            "-N always",
            "-Nnever,delay",
            "-R all",
            "-V \u{e9}",
        ] {
            assert!(options(line).is_err(), "{line}");
        }
    }
}
