//! The manual page: one for the program and its subcommands.

use clap::Command;
use clap::builder::PossibleValue;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::io;

/// The name of the section that the page is of.
const MANUAL: &str = "General Commands Manual";

/// The page of a program with subcommands, in roff.
pub fn page(command: Command, date: &str) -> String {
    let page = render(command, date).expect("memory takes every byte");
    String::from_utf8(page).expect("roff is text")
}

fn render(mut command: Command, date: &str) -> io::Result<Vec<u8>> {
    command.build();
    let (name, version) = (command.get_name(), env!("CARGO_PKG_VERSION"));
    let source = format!("{name} {version}");
    let man = Man::new(command.clone()).date(date).source(source).manual(MANUAL);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut rest = Roff::new();
    rest.control("SH", ["SUBCOMMANDS"]);
    for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
        add(&mut rest, subcommand);
    }
    rest.control("SH", ["NOTES"]);
    add_text(&mut rest, command.get_after_help());
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// Adds a subcommand: its usage, what it does, its arguments and its notes.
fn add(page: &mut Roff, subcommand: &Command) {
    let usage = subcommand.clone().render_usage().to_string();
    page.control("SS", [subcommand.get_name()]);
    page.text([bold(usage.trim_start_matches("Usage: "))]);
    add_text(page, subcommand.get_about());
    for argument in subcommand.get_positionals() {
        let values = argument.get_possible_values();
        let values: Vec<_> = values.iter().map(PossibleValue::get_name).collect();
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        page.control("TP", []);
        page.text([bold(argument.to_string())]);
        if values.is_empty() {
            page.text([roman(help)]);
        } else {
            page.text([roman(format!("{help}: one of {}.", values.join(", ")))]);
        }
        if let Some(name) = argument.get_env() {
            let name = bold(name.to_string_lossy());
            let [before, after] =
                ["May also be specified with the ", " environment variable."].map(roman);
            page.control("RS", []);
            page.text([before, name, after]);
            page.control("RE", []);
        }
    }
    add_text(page, subcommand.get_after_help());
}

/// Adds paragraphs.
fn add_text(page: &mut Roff, text: Option<&impl ToString>) {
    let text = text.map(ToString::to_string).unwrap_or_default();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        page.control("PP", []);
        page.text([roman(paragraph)]);
    }
}
