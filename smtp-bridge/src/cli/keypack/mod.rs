//! `postern keypack`: packs as things that are moved, looked at and destroyed.

mod elf;
mod image;
mod looks;
mod paper;
mod portable;
mod wipe;

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
    /// Show the packs that are known here, with value and keys as last heard.
    List(looks::ListArgs),
    /// Show what a pack is, without a secret of it.
    Inspect(looks::InspectArgs),
    /// Put a pack, a data folder or a medium under another passphrase.
    Passphrase(looks::ChangeArgs),
    /// Print a pack that was not used yet as QR codes.
    Print(paper::PrintArgs),
    /// Put a pack together from codes that were scanned.
    Read(paper::ReadArgs),
    /// Destroy packs, data folders or media: keys first.
    PanicWipe(wipe::WipeArgs),
    /// Move a pack to a medium that runs by itself: keys, value, mail and this program.
    Export(Box<portable::ExportArgs>),
    /// Move a pack from a medium back to this machine.
    Import(portable::ImportArgs),
}

pub(super) async fn run(args: KeypackArgs) -> Result<(), Failure> {
    match args.command {
        KeypackCommand::List(args) => looks::list(&args).await,
        KeypackCommand::Inspect(args) => looks::look(&args),
        KeypackCommand::Passphrase(args) => looks::change(&args),
        KeypackCommand::Print(args) => paper::print(&args),
        KeypackCommand::Read(args) => paper::read(&args),
        KeypackCommand::PanicWipe(args) => wipe::wipe(&args).await,
        KeypackCommand::Export(args) => portable::export(&args),
        KeypackCommand::Import(args) => portable::import(&args),
    }
}
