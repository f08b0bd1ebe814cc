//! One program's page: clap's own sections, and a section for each subcommand.

use crate::Program;
use anyhow::Result;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// The page, ready for man(1).
pub fn of(program: &Program) -> Result<Vec<u8>> {
    let mut command = program.command.clone();
    command.build();
    let man = Man::new(command.clone()).section(program.section).manual("medevac").date("");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    words(&command, &mut page)?;
    notes(&command).to_writer(&mut page)?;
    ending(program).to_writer(&mut page)?;
    Ok(page)
}

/// Each subcommand with its own arguments; those of all stand above already.
fn words(command: &Command, page: &mut Vec<u8>) -> Result<()> {
    let words: Vec<_> = command.get_subcommands().filter(|word| word.get_name() != "help").collect();
    if words.is_empty() {
        return Ok(());
    }
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for word in words {
        roff.control("TP", []);
        roff.text([bold(usage(word))]);
        let about = word.get_long_about().or(word.get_about()).map(ToString::to_string).unwrap_or_default();
        roff.text([roman(about.replace('\n', " "))]);
        arguments(word, &mut roff);
        examples(word, &mut roff);
    }
    roff.to_writer(page)?;
    Ok(())
}

/// What stands below the help, line by line.
fn notes(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let Some(text) = command.get_after_help() else { return roff };
    roff.control("SH", ["NOTES"]);
    roff.control("nf", []);
    for line in text.to_string().lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff
}

/// `maintenance <HOST> <SWITCH> [--until-back]`: the name and what must be given.
fn usage(word: &Command) -> String {
    let values = word.get_positionals().map(|a| format!(" <{}>", a.get_id().as_str().to_uppercase()));
    let flags = own_flags(word).map(|a| {
        let value = if a.get_action().takes_values() { format!(" {}", value_name(a)) } else { String::new() };
        let flag = format!("--{}{value}", a.get_long().unwrap_or_default());
        if a.is_required_set() { format!(" {flag}") } else { format!(" [{flag}]") }
    });
    let mut usage = word.get_name().to_owned();
    usage.extend(values);
    usage.extend(flags);
    usage
}

fn value_name(argument: &clap::Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    names.first().map_or_else(|| argument.get_id().as_str().to_uppercase(), ToString::to_string)
}

fn own_flags(word: &Command) -> impl Iterator<Item = &clap::Arg> {
    word.get_opts()
        .chain(word.get_arguments().filter(|a| !a.is_positional() && !a.get_action().takes_values()))
        .filter(|a| !a.is_global_set() && !a.is_hide_set() && !matches!(a.get_id().as_str(), "help" | "version"))
}

/// What clap knows of each argument, one below the other.
fn arguments(word: &Command, roff: &mut Roff) {
    for argument in word.get_positionals().chain(own_flags(word)) {
        let values = argument.get_possible_values().into_iter().filter(|_| argument.is_positional());
        let values: Vec<_> = values.map(|value| value.get_name().to_owned()).collect();
        let one_of = (!values.is_empty()).then(|| format!("one of: {}", values.join(", ")));
        let Some(help) = argument.get_help().map(ToString::to_string).or(one_of) else { continue };
        let name = match argument.get_long() {
            Some(long) => format!("--{long}"),
            None => format!("<{}>", argument.get_id().as_str().to_uppercase()),
        };
        roff.control("RS", []);
        roff.control("TP", []);
        roff.text([bold(name)]);
        roff.text([roman(help)]);
        roff.control("RE", []);
    }
}

/// What stands below a word's own help, as it stands there.
fn examples(word: &Command, roff: &mut Roff) {
    let Some(text) = word.get_after_long_help() else { return };
    roff.control("RS", []);
    roff.control("nf", []);
    for line in text.to_string().lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.control("RE", []);
}

fn ending(program: &Program) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["FILES"]);
    for (path, what) in program.files {
        roff.control("TP", []);
        roff.text([bold(*path)]);
        roff.text([roman(*what)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(program.see_also)]);
    roff
}
