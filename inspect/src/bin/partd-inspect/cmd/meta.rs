//! `completions` and `man`, generated from the definition of the command line.

use clap::CommandFactory;

use crate::Failure;
use crate::args::Args;
use crate::output::Output;

pub(crate) fn completions(shell: clap_complete::Shell, out: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "partd-inspect", &mut script);
    Ok(out.bytes(&script)?)
}

/// Writes one page for the program, with a section for each subcommand.
pub(crate) fn man(out: &mut Output) -> Result<(), Failure> {
    let mut command = Args::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let man = clap_mangen::Man::new(sub.clone());
        page.extend_from_slice(format!(".SH {}\n", sub.get_name().to_uppercase()).as_bytes());
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        man.render_extra_section(&mut page)?;
    }
    Ok(out.bytes(&page)?)
}
