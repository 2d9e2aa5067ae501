//! `selvedge completion`: the command line, completed by a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Args)]
pub(crate) struct Completion {
    shell: Shell,
}

/// Writes it to standard output, for the shell to read at its start.
pub(super) fn run<Arguments: CommandFactory>(completion: &Completion) {
    let mut text = Vec::new();
    clap_complete::generate(completion.shell, &mut Arguments::command(), "selvedge", &mut text);
    print!("{}", String::from_utf8_lossy(&text));
}
