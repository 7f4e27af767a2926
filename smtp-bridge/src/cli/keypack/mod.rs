//! `postern keypack`: packs as things that are moved, looked at and destroyed.

mod elf;
mod image;
mod portable;

use clap::{Args, Subcommand};

use super::process::Failure;
pub use elf::fuzz as fuzz_elf;

/// Arguments of `postern keypack`.
#[derive(Args)]
pub(super) struct KeypackArgs {
    #[command(subcommand)]
    command: KeypackCommand,
}

#[derive(Subcommand)]
enum KeypackCommand {
    /// Move a pack to a medium that runs by itself: keys, value, mail and this program.
    Export(Box<portable::ExportArgs>),
    /// Move a pack from a medium back to this machine.
    Import(portable::ImportArgs),
}

pub(super) async fn run(args: KeypackArgs) -> Result<(), Failure> {
    match args.command {
        KeypackCommand::Export(args) => portable::export(&args),
        KeypackCommand::Import(args) => portable::import(&args),
    }
}
