//! Questions to the person at the terminal.

use std::io::{BufRead, IsTerminal, Write};

use super::process::Failure;

/// Whether somebody is there to answer.
pub(super) fn is_there() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks a question; an empty answer takes `default`, and is asked again where there is none.
pub(super) fn ask(question: &str, default: Option<&str>) -> Result<String, Failure> {
    loop {
        let hint = default.map(|default| format!(" [{default}]")).unwrap_or_default();
        let answer = line(&format!("{question}{hint}: "))?;
        match (answer.trim(), default) {
            ("", Some(default)) => return Ok(default.to_owned()),
            ("", None) => {}
            (answer, _) => return Ok(answer.to_owned()),
        }
    }
}

/// Asks whether to go on; anything but yes is no.
pub(super) fn agrees(question: &str) -> Result<bool, Failure> {
    let answer = line(&format!("{question} [y/N] "))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn line(question: &str) -> Result<String, Failure> {
    let failed = |error| Failure(format!("cannot ask on the terminal: {error}"));
    // Standard output is for what the command is asked for.
    eprint!("{question}");
    std::io::stderr().flush().map_err(failed)?;
    let mut answer = String::new();
    match std::io::stdin().lock().read_line(&mut answer).map_err(failed)? {
        0 => Err(Failure("no answer: the terminal was closed".to_owned())),
        _ => Ok(answer),
    }
}
