//! The whole command line: the flags of a store, or a subcommand.
//!
//! A subcommand stands first. It has its flags behind it, and takes the variables of
//! those alone.

use super::{Options, Token, Url, environment, man};
use clap::error::ErrorKind;
use clap::{Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use std::ffi::OsString;
use std::fmt::Display;

/// The number of the version, with the commit and the date where they are known.
const VERSION: &str = env!("LKV_BUILD_VERSION");

/// The date of the version, or nothing.
const DATE: &str = env!("LKV_BUILD_DATE");

/// The end of the text of `--help`.
const AFTER_HELP: &str = "\
The variable LKV_TOKEN, which has no flag, is one token with all rights. LKV_CLUSTER_USER and \
LKV_CLUSTER_PASSWORD, which have none either, let the store in at the nodes of its cluster.

Exit codes: 0 after Ctrl-C or SIGTERM, 129 after SIGHUP, 1 for a failure, 2 for bad usage. A second \
Ctrl-C or SIGTERM ends it at once, with 1. A signal that is ignored at the start, as nohup has it, \
stays ignored.";

/// The end of the text of `run --help`.
const AFTER_RUN_HELP: &str = "\
The command finds the store in LKV_URL, and its token in LKV_TOKEN: a random one, unless that \
variable gives it. With --token-file or --no-auth LKV_TOKEN is not set.

Exit codes: that of the command, or 128 and the number of the signal that ended it; 126 if it \
cannot be run, 127 if it is not found, 1 if the store cannot start, 2 for bad usage. Signals to \
stop are passed on to the command, and the store stops once that has ended.";

/// A key-value store over HTTP. In memory, durable, or in front of a Redis or Valkey
/// Cluster; curl is the client.
#[derive(Debug, Parser)]
#[command(version = VERSION, max_term_width = 100, args_override_self = true, after_help = AFTER_HELP,
          args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,

    #[command(subcommand)]
    subcommand: Option<Subcommands>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Run a command beside a store of its own, which ends with it: on a free port, and in
    /// memory, unless flags say otherwise
    #[command(after_help = AFTER_RUN_HELP,
              mut_arg("port", |arg| arg.default_value("0")),
              mut_arg("log_level", |arg| arg.default_value("warn")))]
    Run {
        #[command(flatten)]
        options: Box<Options>,

        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },

    /// Exit with 0 if a store takes requests, else with 1 and the reason
    Health {
        /// The store, or one of its paths in place of /readyz [default: the host and the
        /// port of a store's variables, or its defaults]
        #[arg(env = Url::VARIABLE)]
        url: Option<Url>,
    },

    /// Print a script that has a shell complete this program's arguments
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Print the manual page: little-key-value man | man -l -
    Man,
}

/// The task of the program.
#[derive(Debug)]
pub enum Task {
    /// Serve until a signal comes.
    Serve(Box<Options>),
    /// Serve as long as a command runs, given with its arguments.
    Run(Box<Options>, Vec<OsString>),
    /// Ask the store at a URL for its health.
    Health(Url),
}

/// An end before the start.
#[derive(Debug, PartialEq, Eq)]
pub enum Instead {
    /// Print this text and succeed: the help, the version, or the text of a subcommand.
    Print(String),
    /// Complain with this line: the usage is bad.
    Complain(String),
}

impl Task {
    /// Reads the arguments, the program's name first, and the environment. An
    /// empty variable is an unset one.
    pub fn read(arguments: impl Iterator<Item = OsString>) -> Result<Self, Instead> {
        let arguments: Vec<OsString> = arguments.collect();
        let parsed = parse(&arguments)?;
        match parsed.subcommand {
            None => Ok(Self::Serve(Box::new(with_variables(parsed.options)?))),
            Some(Subcommands::Run { options, command }) => {
                Ok(Self::Run(Box::new(with_variables(*options)?), command))
            }
            Some(Subcommands::Health { url: Some(url) }) => Ok(Self::Health(url)),
            Some(Subcommands::Health { url: None }) => {
                let program: Vec<_> = arguments.into_iter().take(1).collect();
                let Options { host, port, .. } = parse(&program)?.options;
                Url::of_host(&host, port).map(Self::Health).map_err(bad_usage)
            }
            Some(Subcommands::Completions { shell }) => Err(Instead::Print(completions(shell))),
            Some(Subcommands::Man) => Err(Instead::Print(man::page(Arguments::command(), DATE))),
        }
    }
}

/// Takes what has no flag from the environment.
fn with_variables(mut options: Options) -> Result<Options, Instead> {
    options.token = Token::read().map_err(bad_usage)?;
    options.check_access().map_err(bad_usage)?;
    options.limits.check(options.working_dir.as_deref()).map_err(bad_usage)?;
    options.cluster.read_variables().map_err(bad_usage)?;
    options.cluster.check().map_err(bad_usage)?;
    Ok(options)
}

/// A script for a shell.
fn completions(shell: Shell) -> String {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, &name, &mut script);
    // The generator for bash takes the hyphens of our name for spaces before subcommands
    // in one of two places, which then do not meet.
    let [name, other_name] = ["__", "__subcmd__"].map(|hyphen| name.replace('-', hyphen));
    let script = String::from_utf8(script).expect("a script is text");
    script.replace(&other_name, &name)
}

fn parse(arguments: &[OsString]) -> Result<Arguments, Instead> {
    let mut command = Arguments::command().mut_subcommands(without_unset_variables);
    let is_subcommand =
        arguments.get(1).is_some_and(|first| command.find_subcommand(first).is_some());
    command = if is_subcommand {
        command.mut_args(|arg| arg.env(None::<&str>))
    } else {
        without_unset_variables(command)
    };
    let matches = command.try_get_matches_from_mut(arguments);
    let parsed = matches.and_then(|matches| Arguments::from_arg_matches(&matches));
    parsed.map_err(|err| {
        let text = err.render().to_string();
        if matches!(err.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            Instead::Print(text)
        } else {
            Instead::Complain(one_line(&text))
        }
    })
}

/// Hides variables that are as good as unset from a command.
fn without_unset_variables(command: Command) -> Command {
    command.mut_args(|arg| {
        let is_unset = arg.get_env().is_some_and(|name| {
            std::env::var_os(name).is_some_and(|value| environment::is_unset(name, &value))
        });
        if is_unset { arg.env(None::<&str>) } else { arg }
    })
}

fn bad_usage(complaint: impl Display) -> Instead {
    Instead::Complain(format!("{complaint}; see --help"))
}

/// The first sentence of a complaint of clap's, with its tip if it has one.
fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim);
    let first: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    let first = first.join(" ");
    let complaint = first.strip_prefix("error: ").unwrap_or(&first);
    match lines.find_map(|line| line.strip_prefix("tip: ")) {
        Some(tip) => format!("{complaint} ({tip}); see --help"),
        None => format!("{complaint}; see --help"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::Span;
    use log::LevelFilter;
    use std::iter;
    use std::time::Duration;

    pub fn read(arguments: &[&str]) -> Result<Task, Instead> {
        let program = iter::once("little-key-value");
        Task::read(program.chain(arguments.iter().copied()).map(Into::into))
    }

    pub fn complaint(arguments: &[&str]) -> String {
        match read(arguments) {
            Err(Instead::Complain(line)) => line,
            other => panic!("{arguments:?} is no bad usage: {other:?}"),
        }
    }

    pub fn options(arguments: &[&str]) -> Options {
        match read(arguments) {
            Ok(Task::Serve(options)) => *options,
            other => panic!("{arguments:?} does not serve: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    fn run(arguments: &[&str]) -> (Options, Vec<OsString>) {
        let Ok(Task::Run(options, command)) = read(&[&["run"], arguments].concat()) else {
            panic!("{arguments:?} does not run a command");
        };
        (*options, command)
    }

    #[test]
    fn run_takes_the_flags_of_a_store_with_defaults_of_its_own() {
        let (options, command) = run(&["--", "a", "--port", "1", "--", "b"]);
        assert_eq!(command, ["a", "--port", "1", "--", "b"]);
        assert_eq!((options.port, options.log_level), (0, LevelFilter::Warn));
        assert_eq!((&*options.host, options.working_dir), ("127.0.0.1", None));
        let flags = ["--port", "9000", "--idle-timeout=5s", "--log-level", "info", "--", "a"];
        let (options, _) = run(&flags);
        assert_eq!((options.port, options.log_level), (9000, LevelFilter::Info));
        assert_eq!(options.idle_timeout, Span(Duration::from_secs(5)));
    }

    #[test]
    fn bad_usage_of_a_subcommand_is_one_line() {
        let cases: [(&[&str], &str); 11] = [
            (&["run"], "CMD"),
            (&["run", "--"], "CMD"),
            (&["run", "--port", "0"], "CMD"),
            (&["run", "true"], "true"),
            (&["run", "--prot", "0", "--", "true"], "--port"),
            (&["--port", "0", "run", "--", "true"], "run"),
            (&["serve"], "serve"),
            (&["health", "https://127.0.0.1"], "http"),
            (&["health", "127.0.0.1:8888"], "127.0.0.1:8888"),
            (&["health", "http://a", "http://b"], "http://b"),
            (&["health", "--port", "1"], "--port"),
        ];
        for (arguments, mentioned) in cases {
            let line = complaint(arguments);
            assert!(line.contains(mentioned), "{arguments:?}: {line}");
            assert!(!line.contains('\n') && line.ends_with("; see --help"), "{line}");
        }
    }

    #[test]
    fn the_health_is_that_of_a_url_or_of_the_default_address() {
        let url = |arguments: &[&str]| {
            let Ok(Task::Health(url)) = read(arguments) else { panic!("{arguments:?}") };
            url.to_string()
        };
        assert_eq!(url(&["health"]), "http://127.0.0.1:8888/readyz");
        assert_eq!(url(&["health", "http://a:1"]), "http://a:1/readyz");
    }

    #[test]
    fn help_and_version_are_printed() {
        for arguments in
            [&["--help"][..], &["--version"], &["help"], &["run", "--help"], &["help", "health"]]
        {
            assert!(matches!(read(arguments), Err(Instead::Print(_))), "{arguments:?}");
        }
    }
}
