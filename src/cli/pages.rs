//! What the program tells of itself: the OpenAPI document, shell completions and manual pages.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;
use clap_mangen::Man;

use super::Failure;
use super::output::line;

#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell to complete for
    shell: Shell,
}

#[derive(Args, Debug)]
pub struct ManArgs {
    /// Write each page to a file of its own in this directory, instead of all to the output
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn openapi() -> Result<(), Failure> {
    let document = serde_json::to_string_pretty(&crate::http::spec::json())
        .map_err(|error| Failure::new(format!("the OpenAPI document cannot be written: {error}")))?;
    line(&document)
}

pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    // Into memory first: the generator panics when a pipe closes.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "consentd", &mut script);
    Ok(io::stdout().lock().write_all(&script)?)
}

pub fn manual(args: &ManArgs) -> Result<(), Failure> {
    let mut root = super::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    collect(&root, &mut pages);
    let Some(dir) = &args.dir else {
        let mut stdout = io::stdout().lock();
        for page in pages {
            page.render(&mut stdout)?;
        }
        return Ok(());
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| pages.iter().try_for_each(|page| page.generate_to(dir).map(|_| ())))
        .map_err(|error| Failure::new(format!("cannot write the pages to {}: {error}", dir.display())))
}

fn collect(command: &clap::Command, pages: &mut Vec<Man>) {
    pages.push(Man::new(command.clone()));
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        collect(subcommand, pages);
    }
}
