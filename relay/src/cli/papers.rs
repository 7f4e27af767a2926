//! What is made from the commands' own descriptions: completions for shells, manual pages.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use smtp_bridge::cli::process::Failure;

use super::Cli;

/// Prints the completions for a shell.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    clap_complete::generate(shell, &mut Cli::command(), "posternd", &mut io::stdout());
    Ok(())
}

/// Writes the pages into a folder: `posternd.1`, and one for each command below it.
pub(super) fn manual(to: &Path) -> Result<(), Failure> {
    let failed = |error| Failure(format!("cannot write manual pages to {}: {error}", to.display()));
    std::fs::create_dir_all(to).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), to).map_err(failed)
}
