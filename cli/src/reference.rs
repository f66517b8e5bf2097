//! `docs/cli.md`, written from the command line itself.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::args::Cli;
use crate::exit;

/// The text of `docs/cli.md`.
pub fn reference() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = String::from(
        "<!-- Generated from cli/ by `cargo xtask gen`; do not edit. -->\n# carrickctl\n\n",
    );
    // Writing into a String cannot fail.
    let _ = writeln!(
        text,
        "{}\n\nIt needs a kubeconfig and nothing else. Data goes to standard output, everything else to standard error.\n",
        sentence(&about(&root))
    );
    let _ = writeln!(text, "```\n{}\n```\n", exit::HELP);
    text.push_str("## Options of every command\n\n");
    options(
        &mut text,
        root.get_arguments().filter(|arg| arg.is_global_set()),
    );
    for command in root.get_subcommands() {
        section(&mut text, command);
    }
    text
}

fn section(text: &mut String, command: &Command) {
    let _ = writeln!(
        text,
        "\n## carrickctl {}\n\n{}\n",
        command.get_name(),
        sentence(&about(command))
    );
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let _ = writeln!(text, "```\n{usage}\n```\n");
    let own =
        |arg: &&Arg| !arg.is_global_set() && arg.get_id() != "help" && arg.get_id() != "version";
    options(text, command.get_arguments().filter(own));
}

fn about(command: &Command) -> String {
    command
        .get_long_about()
        .or(command.get_about())
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.ends_with('.') {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

fn options<'a>(text: &mut String, arguments: impl Iterator<Item = &'a Arg>) {
    let mut rows = String::new();
    for argument in arguments.filter(|arg| !arg.is_hide_set()) {
        let help = argument
            .get_long_help()
            .or(argument.get_help())
            .map(ToString::to_string);
        let mut help = sentence(&help.unwrap_or_default());
        let values: Vec<String> = argument
            .get_possible_values()
            .iter()
            .filter(|_| argument.get_action().takes_values())
            .map(|value| match value.get_help() {
                Some(help) => format!(
                    "`{}` ({})",
                    value.get_name(),
                    help.to_string().trim_end_matches('.')
                ),
                None => format!("`{}`", value.get_name()),
            })
            .collect();
        if !values.is_empty() {
            let _ = write!(help, " One of {}.", values.join(", "));
        }
        let defaults: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect();
        if !defaults.is_empty() && argument.get_action().takes_values() {
            let _ = write!(help, " Default: `{}`.", defaults.join(","));
        }
        let _ = writeln!(rows, "| {} | {} |", name(argument), cell(&help));
    }
    if !rows.is_empty() {
        let _ = write!(text, "| option | meaning |\n|---|---|\n{rows}");
    }
}

fn name(argument: &Arg) -> String {
    let value = argument
        .get_value_names()
        .and_then(|names| names.first())
        .map(ToString::to_string)
        .unwrap_or_default();
    if argument.is_positional() {
        let many = argument
            .get_num_args()
            .is_some_and(|range| range.max_values() > 1);
        return format!("`{}{}`", value, if many { "..." } else { "" });
    }
    let mut names = Vec::new();
    if let Some(short) = argument.get_short() {
        names.push(format!("-{short}"));
    }
    if let Some(long) = argument.get_long() {
        names.push(format!("--{long}"));
    }
    let takes = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
    let value = if takes {
        format!(" {value}")
    } else {
        String::new()
    };
    format!("`{}{value}`", names.join(", "))
}

/// One cell of a Markdown table.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}
